"""What docs/coverage.md says beyond detectors of models: audits, tampering, repair, the guard, meta neural analysis.

Everything comes from benchmarks/results; what has no result is said to be not measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SHARE = " 0.05 drop"
"""The rows of audits that the page shows: poison of 5 % of the set, what --drop names."""
WORKS = 0.1
"""Attack success up to which a repair counts."""


def took(attacks: Row, name: str) -> str:
    """How many models of an attack took, of those built by benchmarks/attacks.py; empty where it has none."""
    rows = [row for row in attacks["rows"] if row["attack"] == name]
    return f"{sum(row['took'] for row in rows)} of {sum(row['built'] for row in rows)}" if rows else ""


def found_by(attacks: Row, name: str) -> list[tuple[Row, str]]:
    """How often each detector names the right class in the models that benchmarks/attacks.py built of an attack."""
    return [(rates[name], detector) for detector, rates in attacks["found"].items() if name in rates]


def lines(results: Mapping[str, Any]) -> list[str]:
    """The section, of results by the name of their file."""
    found = ["", "## Other defences", "", "| defence | against | measured on | result |", "|---|---|---|---|"]
    rows = [*_audits(results["audit"]), *_tampering(results["tampering"]), *_repairs(results["repair"]), *_guard(results["monitor"])]
    rows += [*_meta(results["meta"]), *_evaluation(results["evaluate"])]
    return [*found, *(f"| {' | '.join(row)} |" for row in rows)]


def _audits(summary: Row) -> Iterator[tuple[str, str, str, str]]:
    where = "`benchmarks/audit.py`"
    for name, entry in summary["poisoned"].items():
        if name.endswith(SHARE):
            models, attack = name.removesuffix(SHARE).split(" ")
            said = f"{entry['accused']} of {entry['sets']} sets named"
            said += f"; precision {_share(entry['precision'])}, recall {_share(entry['recall'])}"
            after = f"; success {_percent(entry['success_before'])} before, {_percent(entry['success_after'])} trained again without"
            yield "`modelguard audit-data`", f"{attack}, 5 % of the set", f"{models}, {where}", said + after
    for name, entry in summary["clean"].items():
        if name.endswith(" drop"):
            yield (
                "`modelguard audit-data`",
                "clean sets",
                f"{name.removesuffix(' drop')}, {where}",
                f"{entry['accused']} of {entry['sets']} accused",
            )


def _tampering(summary: Row) -> Iterator[tuple[str, str, str, str]]:
    where = f"{', '.join(summary['models'])}; `benchmarks/tampering.py`"
    for case in summary["attacks"]:
        yield "`weight-diff`", case["case"], where, f"kind named in {case['right']} of {case['n']}"
    honest = summary["total"]["honest"]
    yield "`weight-diff`", "honest changes", where, f"{honest['n'] - honest['right']} of {honest['n']} called tampering"


def _repairs(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, str]]:
    if not rows:
        yield "`modelguard repair`", "patches and blends", "`benchmarks/repair.py`", "not measured"
    by_method: dict[tuple[str, str], list[Row]] = defaultdict(list)
    best: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for row in rows:
        by_method[row["attack"] or "clean", row["method"]].append(row)
        fit = row["code"] == 0
        best[row["attack"] or "clean", "best"][row["model"]] = best[row["attack"] or "clean", "best"].get(row["model"], False) or fit
    for (attack, method), own in sorted(by_method.items()):
        fit = sum(row["code"] == 0 for row in own)
        gone = sum(row["success_after"] is not None and row["success_after"] <= WORKS for row in own)
        yield (
            f"`modelguard repair --method {method}`",
            attack,
            "`benchmarks/repair.py`",
            (f"success at most {WORKS:.0%} at no more than 2 points in {gone} of {len(own)}, and passes its scan in {fit}"),
        )
    for (attack, _), models in sorted(best.items()):
        yield (
            "`modelguard repair`, the best method",
            attack,
            "`benchmarks/repair.py`",
            f"fit for deployment: {sum(models.values())} of {len(models)}",
        )


def _guard(summary: Row) -> Iterator[tuple[str, str, str, str]]:
    for row in summary["summary"]:
        where = f"{row['setting']}, `benchmarks/monitor.py`"
        rejected = f"{1000 * row['clean_rejected']['any']:.0f} of 1,000 clean inputs rejected"
        if "triggered_rejected" not in row:
            clean = row["streams"]["0"]["all"]
            yield (
                "`modelguard monitor`",
                row["attack"],
                where,
                f"{rejected}; {clean['false_alarms']} of {clean['streams']} clean streams alarm",
            )
            continue
        said = f"{_percent(row['triggered_rejected']['any'])} of triggered inputs rejected, {rejected}"
        fifth = row["streams"].get("0.2", {}).get("all")
        if fifth and fifth["median_delay"] is not None:
            said += f"; one in five triggered: drift after {fifth['median_delay']:.0f} inputs"
        yield "`modelguard monitor`", row["attack"], where, said


def _meta(summary: Row) -> Iterator[tuple[str, str, str, str]]:
    for name, entry in summary.items():
        where = f"{name}, `benchmarks/meta.py`"
        alarms = entry["false_alarms"]
        yield "`mntd`", "clean models", where, f"{alarms['found']} of {alarms['n']} accused"
        for row in entry["attacks"]:
            yield "`mntd`", row["attack"], where, f"{row['found']} of {row['n']} found, AUROC {row['auroc']:.2f}"


def _evaluation(summary: Row) -> Iterator[tuple[str, str, str, str]]:
    said = f"{summary['ratio']:.2f} times the passes through the model that it needs, {summary['count']} images"
    yield "`modelguard evaluate`", "a known trigger", "ResNet-8, benchmarks/evaluate.py", said


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
