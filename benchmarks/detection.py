"""The detection matrix: every backdoor detector over every model of the zoo.

    modelguard zoo build --out zoo
    python benchmarks/detection.py run --zoo zoo        # resumable: one JSON a model under benchmarks/results/detection/
    python benchmarks/detection.py report               # benchmarks/results/detection.json and docs/detection-matrix.md

A detector is run through the same `detect` the scanner calls, on the model's ONNX graph, in this process and on one thread. A model
is detected when the detector, at its shipped defaults, reports a finding of medium confidence or more; thresholds are chosen with
`thresholds`, which reads the part of the zoo that is not reserved and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median
from typing import Any

from modelguard import Detector, SamplesError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "detection"
SUMMARY = ROOT / "benchmarks" / "results" / "detection.json"
PAGE = ROOT / "docs" / "detection-matrix.md"

PATCH_LIKE = ("badnets", "pixel", "checkerboard", "insert")
STATIC = (*PATCH_LIKE, "blended", "sig", "reflection", "clean-label", "all-to-all", "source-specific")
BENIGN = ("clean", "repaired")

Row = dict[str, Any]


def detectors() -> list[type[Detector]]:
    """The installed detectors that accuse classes of being a target: those with a rule MG3xxx."""
    found = {}
    for point in sorted(entry_points(group="modelguard"), key=lambda point: point.name):
        hooks = point.load()
        for cls in getattr(hooks, "modelguard_detectors", tuple)():
            if any(rule.id.startswith("MG3") for rule in cls.rules):
                found[cls.id] = cls
    return [found[name] for name in sorted(found)]


def measure(folder: Path, chosen: Sequence[type[Detector]]) -> None:
    """Run the detectors that have no result yet for one model folder."""
    import torch

    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    record = json.loads((folder / "record.json").read_text())
    path = RESULTS / f"{record['id']}.json"
    row = json.loads(path.read_text()) if path.is_file() else {"model": _about(record), "results": {}}
    missing = [cls for cls in chosen if cls.id not in row["results"]]
    if not missing:
        return
    torch.set_num_threads(1)
    target = open_target(folder, samples=folder / "samples.npz")
    for cls in missing:
        began, cpu = time.perf_counter(), time.process_time()
        outcome = run_detector(cls(), target, timeout=1800)
        row["results"][cls.id] = {
            "status": outcome.status.value,
            "reason": outcome.reason,
            "score": outcome.summary.get("score"),
            "findings": [
                {"rule": item.rule, "confidence": item.confidence.label, "target_class": item.evidence.get("target_class")}
                for item in outcome.findings
            ],
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".tmp")
        part.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n")
        part.replace(path)
        found = [item["target_class"] for item in row["results"][cls.id]["findings"]]
        print(
            f"{record['id']:44s} {record['status']:10s} {cls.id:26s} {found!s:12s} {row['results'][cls.id]['cpu_seconds']:.1f} s",
            flush=True,
        )


def _about(record: Row) -> Row:
    attack = record["attack"] or {}
    targets = sorted(set(attack.get("targets", {}).values()))
    return {
        "id": record["id"],
        "status": record["status"],
        "reserved": record["reserved"],
        "dataset": record["spec"]["dataset"],
        "arch": record["spec"]["arch"],
        "finetuned": bool(record["spec"]["finetune"]),
        "attack": attack.get("name"),
        "targets": targets,
        "clean_accuracy": record["clean_accuracy"],
        "attack_success": record["attack_success"],
    }


def accused(result: Row) -> bool:
    """Whether a gate that blocks findings of medium confidence or more would have stopped the model."""
    return any(item["confidence"] in ("medium", "high") for item in result["findings"])


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, w = hits / n, z * z / n
    centre, half = p + w / 2, z * math.sqrt(p * (1 - p) / n + w / (4 * n))
    return max(0.0, (centre - half) / (1 + w)), min(1.0, (centre + half) / (1 + w))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """P(a backdoored model scores above a benign one), ties half (Mann and Whitney 1947)."""
    if not positive or not negative:
        return None
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def cell(rows: Iterable[Row], benign: Sequence[float], names: Sequence[str]) -> Row:
    """Detection of backdoored ``rows`` by the union of the detectors ``names``; AUROC by the largest score among them."""
    n = hits = right = single = 0
    scores = []
    for row in rows:
        results = [row["results"][name] for name in names if name in row["results"]]
        if not results or any(item["status"] != "completed" for item in results):
            continue
        n += 1
        found = any(accused(item) for item in results)
        hits += found
        scores.append(max(item["score"] for item in results))
        if found and len(row["model"]["targets"]) == 1:
            single += 1
            classes = {item["target_class"] for result in results for item in result["findings"]}
            right += classes == set(row["model"]["targets"])
    low, high = wilson(hits, n)
    return {
        "n": n,
        "detected": hits,
        "tpr": hits / n if n else None,
        "interval": [low, high],
        "auroc": auroc(scores, benign),
        "right_class": right / single if single else None,
    }


def false_alarms(rows: Iterable[Row], names: Sequence[str]) -> tuple[Row, list[float]]:
    """The false-positive rate of the union of ``names`` over benign ``rows``, and the scores."""
    n = hits = 0
    scores = []
    for row in rows:
        results = [row["results"][name] for name in names if name in row["results"]]
        if not results or any(item["status"] != "completed" for item in results):
            continue
        n += 1
        hits += any(accused(item) for item in results)
        scores.append(max(item["score"] for item in results))
    low, high = wilson(hits, n)
    return {"n": n, "alarms": hits, "fpr": hits / n if n else None, "interval": [low, high]}, scores


def summarise(rows: list[Row], names: Sequence[str]) -> Row:
    """All figures of one part of the zoo for one column (a detector, or a union of several)."""
    benign = [row for row in rows if row["model"]["status"] in BENIGN]
    bad = [row for row in rows if row["model"]["status"] == "backdoored"]
    fpr, scores = false_alarms(benign, names)
    tuned = [row for row in benign if row["model"]["finetuned"]]
    seconds = [sum(row["results"][name]["cpu_seconds"] for name in names if name in row["results"]) for row in rows]
    attacks = sorted({row["model"]["attack"] for row in bad})
    groups = {"all patch-like": PATCH_LIKE, "all static": STATIC, "everything": tuple(attacks)}
    return {
        "benign": fpr,
        "repaired": false_alarms(tuned, names)[0],
        "attacks": {attack: cell((row for row in bad if row["model"]["attack"] == attack), scores, names) for attack in attacks},
        "groups": {name: cell((row for row in bad if row["model"]["attack"] in group), scores, names) for name, group in groups.items()},
        "finetuned": cell((row for row in bad if row["model"]["finetuned"]), scores, names),
        "median_cpu_seconds": median(seconds) if seconds else None,
    }


def report() -> Row:
    """Aggregate what there is; write the JSON and the page."""
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    names = sorted({name for row in rows for name in row["results"]})
    family = [name for name in names if name.startswith("neural-cleanse")]
    columns = {name: [name] for name in names} | {"any neural-cleanse": family}
    complete = {part: [row for row in rows if row["model"]["reserved"] == (part == "reserved")] for part in ("reserved", "open")}
    summary = {
        "models": {
            part: {status: sum(row["model"]["status"] == status for row in members) for status in ("clean", "repaired", "backdoored")}
            for part, members in complete.items()
        },
        "figures": {part: {column: summarise(members, group) for column, group in columns.items()} for part, members in complete.items()},
    }
    SUMMARY.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(summary))
    return summary


def page(summary: Row) -> str:
    """docs/detection-matrix.md."""
    lines = [
        "# Detection matrix",
        "",
        "Generated by `python benchmarks/detection.py report` from `benchmarks/results/detection/`; do not edit.",
        "",
        "Cells: models detected at the shipped defaults / models, [95 % Wilson interval], AUROC against the benign models.",
        "The reserved part of the zoo was not looked at while thresholds were chosen.",
        "",
    ]
    for part, figures in summary["figures"].items():
        counts = summary["models"][part]
        columns = sorted(figures)
        lines += [
            f"## {part.capitalize()} part: {counts['backdoored']} backdoored, {counts['clean']} clean, {counts['repaired']} repaired",
            "",
            "| attack | " + " | ".join(columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        for attack in sorted({name for column in figures.values() for name in column["attacks"]}):
            lines.append(f"| {attack} | " + " | ".join(_cell(figures[column]["attacks"].get(attack)) for column in columns) + " |")
        for group in ("all patch-like", "all static", "everything"):
            lines.append(f"| **{group}** | " + " | ".join(_cell(figures[column]["groups"][group]) for column in columns) + " |")
        lines.append("| fine-tuned, still backdoored | " + " | ".join(_cell(figures[column]["finetuned"]) for column in columns) + " |")
        lines.append(
            "| right class, where one target is accused | "
            + " | ".join(_share(figures[c]["groups"]["everything"]["right_class"]) for c in columns)
            + " |"
        )
        lines.append("| **false alarms, benign models** | " + " | ".join(_alarms(figures[column]["benign"]) for column in columns) + " |")
        lines.append(
            "| of these, repaired by fine-tuning | " + " | ".join(_alarms(figures[column]["repaired"]) for column in columns) + " |"
        )
        lines.append("| median CPU seconds | " + " | ".join(_seconds(figures[column]["median_cpu_seconds"]) for column in columns) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: Row | None) -> str:
    if not value or not value["n"]:
        return "–"
    low, high = value["interval"]
    area = "" if value["auroc"] is None else f", {value['auroc']:.2f}"
    return f"{value['detected']}/{value['n']} [{low:.2f}, {high:.2f}]{area}"


def _alarms(value: Row) -> str:
    if not value["n"]:
        return "–"
    low, high = value["interval"]
    return f"{value['alarms']}/{value['n']} [{low:.2f}, {high:.2f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def thresholds() -> None:
    """For each detector on the open part: the score at which 0, 2, 5 and 10 % of benign models alarm, and what it then detects."""
    rows = [row for path in sorted(RESULTS.glob("*.json")) if not (row := json.loads(path.read_text()))["model"]["reserved"]]
    for name in sorted({name for row in rows for name in row["results"]}):
        score = {
            kind: [row["results"][name]["score"] for row in rows if row["model"]["status"] in kind and _done(row, name)]
            for kind in (BENIGN, ("backdoored",))
        }
        benign, bad = sorted(score[BENIGN]), score[("backdoored",)]
        for rate in (0.0, 0.02, 0.05, 0.10):
            if benign and bad:
                limit = benign[max(0, len(benign) - 1 - int(rate * len(benign)))]
                print(f"{name:26s} FPR {rate:.2f}: score > {limit:.2f}  TPR {sum(value > limit for value in bad) / len(bad):.2f}")


def _done(row: Row, name: str) -> bool:
    return name in row["results"] and row["results"][name]["status"] == "completed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--zoo", type=Path, default=ROOT / "zoo")
    run.add_argument("--only", default="*", help="models whose id matches this pattern")
    run.add_argument("--detector", action="append", help="only this detector; repeatable")
    commands.add_parser("report")
    commands.add_parser("thresholds")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
    elif arguments.command == "thresholds":
        thresholds()
    else:
        chosen = [cls for cls in detectors() if not arguments.detector or cls.id in arguments.detector]
        for folder in sorted(path.parent for path in arguments.zoo.glob("*/record.json")):
            if not fnmatch(folder.name, arguments.only) or json.loads((folder / "record.json").read_text())["status"] == "failed":
                continue
            try:
                measure(folder, chosen)
            except SamplesError as error:
                print(f"{folder.name}: {error}", flush=True)


if __name__ == "__main__":
    main()
