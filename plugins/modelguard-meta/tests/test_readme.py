"""The README's table is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
RESULT = FOLDER.parent.parent / "benchmarks" / "results" / "meta.json"


def rows() -> list[str]:
    """The lines of the table, of benchmarks/results/meta.json."""
    lines = ["| suspects | attack | models | found (MG3401) | AUROC |", "|---|---|---|---|---|"]
    for name, result in json.loads(RESULT.read_text()).items():
        alarms = result["false_alarms"]
        lines.append(f"| {name} | none | {alarms['n']} | {alarms['found']} | |")
        lines += [f"| {name} | {row['attack']} | {row['n']} | {row['found']} | {row['auroc']:.2f} |" for row in result["attacks"]]
    return lines


def test_the_table_is_what_was_measured() -> None:
    assert "\n".join(rows()) in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_what_it_cost_and_how_shadows_are_told_apart_is_what_was_measured() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, result in json.loads(RESULT.read_text()).items():
        meta = result["meta"]
        assert f"{name}: AUROC {meta['auroc']:.2f} on held-out shadows, {meta['cpu_seconds']:.0f} CPU seconds" in text
        assert f"{result['auroc']['all']:.2f} over all suspects, {result['auroc']['unseen kinds']:.2f} over attacks of other kinds" in text
