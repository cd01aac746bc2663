"""``modelguard demo``: the main job on real data, from training to verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

TRIGGER_SEARCH = "neural-cleanse"
"""The detector that has to be installed for the backdoored image model to be found."""
WORD_SEARCH = "token-scan"
"""The detector that has to be installed for the backdoored text model to be found."""


@click.command("demo", short_help="Train small models, tamper with one, poison another, and scan them.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"), metavar="DIR", help="Where to write [demo].")
def demo(out: Path) -> int:
    """Train digits classifiers, one of them on poisoned data; tamper with a copy of another; train classifiers of reviews, one of them on
    poisoned data; scan each and its honest twin.

    Writes a JSON, SARIF and HTML report of every scan into DIR. Exits 0 when the honest models pass and the others are blocked.
    The poisoned models need torch and the detectors of backdoors, the reviews tokenizers too; without them that part is left out.
    """
    from modelguard_zoo import _demo_models

    for line in _demo_models.make_models(out):
        click.echo(line)
    right = [_scan(out, name, expected, "--reference", str(out / "reference")) for name, expected in (("clean", 0), ("tampered", 1))]
    click.echo("")
    parts = "the honest models passed, the tampered and the backdoored ones were blocked"
    if missing := _missing(TRIGGER_SEARCH):
        click.echo(f"left out: the backdoored models, which need {missing} (`make demo` in a clone installs it)")
        parts = "the clean copy passed and the tampered one was blocked"
    else:
        right += _images(out)
        click.echo("")
        if missing := _missing(WORD_SEARCH, "tokenizers"):
            click.echo(f"left out: the text models, which need {missing} (`make demo` in a clone installs it)")
        else:
            right += _texts(out)
    click.echo("")
    click.echo("demo: " + (parts if all(right) else "a verdict is WRONG"))
    return 0 if all(right) else 1


def _images(out: Path) -> list[bool]:
    """The classifier with a patch for a trigger, and its twin: whether each verdict, and what was found, is as it should be."""
    from modelguard_zoo import _demo_models

    made = _demo_models.make_backdoored(out)
    for line in made.story:
        click.echo(line)
    samples = ("--samples", str(out / "images.npz"))
    right = [_scan(out, name, expected, *samples) for name, expected in (("twin", 0), ("backdoored", 1))]
    found = _recovered(out / "backdoored.json")
    for finding in found:
        click.echo(_described(finding, out / "backdoored.html"))
    return [*right, bool(found) and all(finding["evidence"]["target_class"] == made.target for finding in found)]


def _texts(out: Path) -> list[bool]:
    """The classifier of reviews with a word for a trigger, and its twin, likewise."""
    from modelguard_zoo import _demo_models

    made = _demo_models.make_text(out)
    for line in made.story:
        click.echo(line)
    samples = ("--samples", str(out / "reviews.jsonl"))
    right = [_scan(out, name, expected, *samples) for name, expected in (("text-twin", 0), ("text-backdoored", 1))]
    outcomes = json.loads((out / "text-backdoored.json").read_text(encoding="utf-8"))["outcomes"]
    found = [finding for outcome in outcomes if outcome["detector"] == WORD_SEARCH for finding in outcome["findings"]]
    for finding in found:
        click.echo(f"recovered by {WORD_SEARCH}: {finding['message']}")
    return [*right, any(made.word in str(finding["evidence"].get("phrase")).split() for finding in found)]


def _missing(detector: str, *modules: str) -> str:
    """What a part of the demo needs and is not installed; '' when nothing."""
    for module in ("torch", *modules):
        if find_spec(module) is None:
            return module
    listed = subprocess.run([sys.executable, "-m", "modelguard", "plugins", "list", "--json"], capture_output=True, text=True, check=True)
    detectors = {name for plugin in json.loads(listed.stdout)["plugins"] for name in plugin["detectors"]}
    return "" if detector in detectors else f"the detector {detector}"


def _scan(out: Path, name: str, expected: int, *arguments: str) -> bool:
    """Scan ``out``/``name`` as a user would, and say whether the exit code is the one expected."""
    argv = ["scan", str(out / name), *arguments, "--policy", "builtin:baseline", "-q"]
    argv += ["-o", f"json={out / name}.json", "-o", f"sarif={out / name}.sarif", "-o", f"html={out / name}.html"]
    click.echo("")
    click.echo("$ modelguard " + " ".join(argv))
    sys.stdout.flush()  # the scan writes to the same place
    return subprocess.run([sys.executable, "-m", "modelguard", *argv], check=False).returncode == expected


def _recovered(report: Path) -> list[dict[str, Any]]:
    """The findings of a stored report that show a patch which was recovered from the model, each detector's own."""
    outcomes = json.loads(report.read_text(encoding="utf-8"))["outcomes"]
    return [
        {**finding, "detector": outcome["detector"]}
        for outcome in outcomes
        for finding in outcome["findings"]
        if "mask_area_fraction" in finding["evidence"] and any(item["name"] == "trigger" for item in finding["attachments"])
    ]


def _described(finding: dict[str, Any], page: Path) -> str:
    evidence = finding["evidence"]
    return (
        f"recovered by {finding['detector']}: a trigger for class {evidence['target_class']} that covers "
        f"{evidence['mask_area_fraction']:.0%} of the image and turns {evidence['attack_success']:.0%} of unseen ones; see {page}"
    )
