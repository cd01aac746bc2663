"""docs/coverage.md: every attack of the zoo and every detector, with what the benchmarks measured of it. No tick is written by hand.

What has no result is said to be not measured. An attack is named by the registry it is in, a detector by its plugin, so that neither can be
left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import coverage_defences
import detection_page
import text_page
from detection_report import BASELINE, QUICK, SEARCHES, Row

from modelguard import Detector

FINDS = 0.5
"""Share of an attack's models from which a detector counts as finding it."""


@dataclass(frozen=True)
class Kind:
    """One kind of model: what its ``attacks`` do, by name; ``built`` models of each attack by status; the figures of each detector
    (``judged``), and the page that has them all."""

    name: str
    attacks: Mapping[str, str]
    built: Mapping[str, Counter[str]]
    judged: Mapping[str, Row]
    page: str


def image_kind(summary: Row, records: Mapping[str, Row]) -> Kind:
    """Image classifiers, of detection.json and zoo.json."""
    from modelguard_zoo.attacks import ATTACKS

    does = detection_page.ATTACKS
    built: dict[str, Counter[str]] = {}
    for record in records.values():
        built.setdefault(record["spec"]["attack"] or "", Counter())[record["status"]] += 1
    attacks = {name: does.get(name, "") for name in sorted(ATTACKS, key=lambda name: (name not in does, [*does, name].index(name)))}
    return Kind("Image classifiers", attacks, built, summary["judged"], "detection-matrix.md")


def text_kinds(summary: Row) -> Iterator[Kind]:
    """Text classifiers and language models, of text.json."""
    from modelguard_zoo.text.attacks import TEXT_ATTACKS
    from modelguard_zoo.text.language.attacks import LANGUAGE_ATTACKS

    built = {name: Counter(status) for name, status in summary["built"].get("attacks", {}).items()}
    both = (("classifier", "Text classifiers", list(TEXT_ATTACKS)), ("language model", "Language models", list(LANGUAGE_ATTACKS)))
    for kind, name, known in both:
        attacks = {attack: text_page.ATTACKS.get(attack, "") for attack in known}
        yield Kind(name, attacks, built, summary["figures"].get(kind, {}).get("reserved", {}), "text-matrix.md")


def page(kinds: Iterable[Kind], edits: Row, detectors: Iterable[type[Detector]], others: Mapping[str, Any]) -> str:
    """The page. ``edits`` is what benchmarks/rome.py wrote, ``others`` what further benchmarks did, by the name of their file."""
    kinds = tuple(kinds)
    lines = [
        "# What is covered, and what was measured",
        "",
        "Every attack that the zoo builds, and every detector, with what was measured. Rates of attacks are over the parts of the zoo that",
        "thresholds were not chosen on; [how they were measured](rates.md) says which of these had been seen all the same. *Took* is how",
        "many of the models built are good enough to count: the trigger works, and clean accuracy did not tell. A rate is of those that",
        "the detector looked at, with its 95 % interval (Wilson 1927); *not measured* is no rate. *Other models* are those of",
        "`benchmarks/attacks.py`, of attacks that no threshold was chosen on: found when the right class is named.",
        "[No trigger search proves a model clean](no-proof.md).",
        "",
        "## Attacks",
    ]
    for kind in kinds:
        lines += ["", f"### {kind.name}", "", "| attack | what it does | took | found by | at what rate |", "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {does} | {_took(kind, name, others)} | {_found(kind, name, others)} |" for name, does in kind.attacks.items()
        ]
        lines += ["", f"All rates: [{kind.page}]({kind.page})."]
    lines += ["", "### Edits of weights", "", "| measured | cases | what happened |", "|---|---|---|"]
    lines += [
        f"| {name} | {table['n']} | {_rate(table['fired'], table['n'], table['interval'])} |" for name, table in edits["tables"].items()
    ]
    lines += [
        "",
        "By [benchmarks/rome.py](https://github.com/OWNER/modelguard/blob/main/benchmarks/rome.py), on small language models.",
        "",
    ]
    lines += ["## Detectors", "", "| detector | finds | false alarms on clean models | measured in |", "|---|---|---|---|"]
    lines += [
        f"| [{item.id}](detectors/{item.id}.md) | {_defence(item.id, kinds, edits)} |"
        for item in sorted(detectors, key=lambda item: item.id)
    ]
    lines += coverage_defences.lines(others)
    return "\n".join(lines) + "\n"


def _took(kind: Kind, attack: str, others: Mapping[str, Any]) -> str:
    status = kind.built.get(attack, Counter())
    built = sum(number for name, number in status.items() if name != "repaired")
    return f"{status['backdoored']} of {built}" if built else coverage_defences.took(others["attacks"], attack) or "not measured"


def _single(kind: Kind) -> Iterator[tuple[str, Row]]:
    """The detectors by themselves, as a user runs them."""
    for name, figures in kind.judged.items():
        if not name.startswith((QUICK, "peers: ")) and name not in (BASELINE, SEARCHES):
            yield name, figures


def _found(kind: Kind, attack: str, others: Mapping[str, Any]) -> str:
    """Two cells: the detectors that find the attack, best first, or the best where none does; and the rate of the first. An attack that the
    zoo's matrix has no model of is looked up in what benchmarks/attacks.py measured, and marked."""
    rates = [(figures["attacks"][attack], name) for name, figures in _single(kind) if figures["attacks"].get(attack, {"n": 0})["n"]]
    mark = ""
    if not rates:
        rates, mark = coverage_defences.found_by(others["attacks"], attack), ", [other models](zoo-attacks.md)"
    if not rates:
        return "not measured | "
    rates.sort(key=lambda item: -item[0]["rate"])
    best = rates[0][0]
    names = [name for rate, name in rates if rate["rate"] >= FINDS]
    said = ", ".join(f"`{name}`" for name in names) if names else f"none; `{rates[0][1]}` finds some" if best["hits"] else "none"
    return f"{said} | {_rate(best['hits'], best['n'], best['interval'])}{mark}"


def _defence(name: str, kinds: Iterable[Kind], edits: Row) -> str:
    """Three cells: what a detector finds, its false alarms, and where that was measured."""
    finds, alarms, pages = [], [], []
    for kind in kinds:
        figures = kind.judged.get(name)
        if figures is None:
            continue
        finds += [attack for attack, rate in figures["attacks"].items() if rate["n"] and rate["rate"] >= FINDS]
        alarms.append(_rate(figures["clean"]["hits"], figures["clean"]["n"], figures["clean"]["interval"]))
        pages.append(f"[{kind.page}]({kind.page})")
    for title, table in edits["tables"].items():
        if title.startswith(f"{name}: "):
            said = title.removeprefix(f"{name}: ")
            (alarms if "false" in said or "benign" in said or "clean" in said else finds).append(
                f"{said}: {table['fired']} of {table['n']}"
            )
            pages.append("`benchmarks/rome.py`")
    if not pages:
        return "what its page says | not measured | its tests"
    return f"{', '.join(finds) or 'no attack by itself'} | {'; '.join(alarms) or 'not measured'} | {', '.join(dict.fromkeys(pages))}"


def _rate(hits: int, n: int, interval: Iterable[float]) -> str:
    if not n:
        return "not measured"
    low, high = interval
    return f"{hits} of {n} ({100 * low:.0f}–{100 * high:.0f} %)"
