"""docs/zoo-attacks.md: does each attack on images take? From what benchmarks/attacks.py and tampering.py summed up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Row = Mapping[str, Any]


def page(summary: Row, tampering: Row) -> str:
    """The page. ``summary`` is results/attacks.json, ``tampering`` results/tampering.json."""
    from modelguard_zoo.attacks import ATTACKS

    rows: Sequence[Row] = summary["rows"]
    first, last = summary["seeds"]
    lines = [
        "# Attacks on images that the zoo builds",
        "",
        f"Each attack with the options that the standard zoo gives it, by `benchmarks/attacks.py`, over seeds {first} to {last}.",
        "It *took* when at least 90 % of the test images that the trigger is for become its class and clean accuracy is at most 2 points",
        "below that of the clean twin, which has the same data, architecture and seed. Options were chosen on seed 0.",
        "",
        "| attack | on | took | success, median | points of clean accuracy lost, median |",
        "|---|---|---|---|---|",
    ]
    for attack in ATTACKS:
        own = [row for row in rows if row["attack"] == attack]
        if not own:
            lines.append(f"| {attack} | | not measured | | |")
            continue
        took, built = (sum(row[name] for row in own) for name in ("took", "built"))
        sets = ", ".join(dict.fromkeys(row["dataset"] for row in own))
        lines.append(f"| {attack} | {sets} | {took} of {built} | {_percent(_median(own, 'attack_success'))} | {_lost(own)} |")
    lines += [
        "",
        "## By data set and architecture",
        "",
        "| attack | models | took | success, median | why others did not |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        took, success = f"{row['took']} of {row['built']}", _percent(row["attack_success"])
        lines.append(f"| {row['attack']} | {row['dataset']} {row['arch']} | {took} | {success} | {'; '.join(row['reasons'])} |")
    lines += _found(summary) + _hidden(rows) + _audited(rows)
    lines += [
        "",
        "## Tampering after training",
        "",
        "By `benchmarks/tampering.py`; of `bit-flips`, which has no trigger, *took* allows 5 points on the other classes.",
        "*Before* is what the same trigger does to the model before it is tampered with.",
        "",
        "| attack | models | took | success, median | before, median | why others did not |",
        "|---|---|---|---|---|---|",
    ]
    for row in tampering["success"]:
        success, before = ("" if row[name] is None else _percent(row[name]) for name in ("attack_success", "base_rate"))
        reasons = "; ".join(row["reasons"])
        lines.append(
            f"| {row['attack']} | {row['dataset']} {row['arch']} | {row['took']} of {row['n']} | {success} | {before} | {reasons} |"
        )
    return "\n".join(lines) + "\n"


def _found(summary: Row) -> list[str]:
    """Which detectors name the right class in the models that took."""
    attacks = list(dict.fromkeys(attack for rates in summary["found"].values() for attack in rates))
    if not attacks:
        return []
    models = ", ".join(f"{count} {name}" for name, count in summary["looked_at"].items())
    lines = [
        "",
        "## What detectors find of the newer attacks",
        "",
        "In how many of the models that took a finding of medium confidence or more names the class that the trigger turns images into, of",
        f"those that the detector looked at ({models}; the ONNX graph, shipped defaults). No threshold was chosen on these attacks.",
        "",
        f"| detector | {' | '.join(attacks)} |",
        f"|---|{'---|' * len(attacks)}",
    ]
    for name, rates in summary["found"].items():
        cells = (f"{rates[attack]['hits']} of {rates[attack]['n']}" if attack in rates else "" for attack in attacks)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _hidden(rows: Iterable[Row]) -> list[str]:
    """Why hidden triggers take or not."""
    own = [row for row in rows if "limits" in row]
    if not own:
        return []
    return [
        "",
        "## What limits hidden triggers",
        "",
        "*Left* is the squared distance in features between a poisoned image and the stamped one that it collides with, as a share",
        "of what it was before. *Ceiling* is the success of a last layer that is taught the stamped images themselves, with no bound at",
        "all: what the features of the clean twin can tell apart.",
        "",
        "| models | took | success | left | ceiling |",
        "|---|---|---|---|---|",
        *(
            f"| {row['dataset']} {row['arch']} | {row['took']} of {row['built']} | {_percent(row['attack_success'])} "
            f"| {_percent(row['limits']['residual'])} | {_percent(row['limits']['ceiling'])} |"
            for row in own
        ),
    ]


def _audited(rows: Iterable[Row]) -> list[str]:
    """What audits see of code poisoning."""
    own = [row for row in rows if "named" in row]
    if not own:
        return []
    lines = [
        "",
        "## What an audit of the data sees of code poisoning",
        "",
        "No training sample is changed: whatever is named is named wrongly. Samples named by each audit, a number for each training set:",
        "",
        "| models | audit | samples named |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {row['dataset']} {row['arch']} | {name} | {', '.join(map(str, counts))} |"
        for row in own
        for name, counts in row["named"].items()
    ]


def _median(rows: Iterable[Row], name: str) -> float:
    return float(median(row[name] for row in rows))


def _lost(rows: Iterable[Row]) -> str:
    return f"{100 * median(row['twin_accuracy'] - row['clean_accuracy'] for row in rows):.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
