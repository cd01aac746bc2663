"""The terminal view, drawn from what a report stores."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from modelguard import Confidence, Finding, Location, Outcome, Severity, Status
from modelguard._reporters.diff import bar, render


def drawn(
    summary: dict[str, Any], all: bool = False, status: Status = Status.COMPLETED, reason: str = "", files: Outcome | None = None
) -> str:
    out = io.StringIO()
    render(Outcome("weight-diff", status, reason, summary), Console(file=out, width=120, markup=False), all, files)
    return out.getvalue()


def compared(*messages: str, status: Status = Status.COMPLETED) -> Outcome:
    differences = [{"place": f"key{at}", "reference": str(at), "value": None} for at in range(6)]
    found = (
        Finding("MG0201", text, Confidence.HIGH, Severity.MEDIUM, Location(f"{at}.json"), {"differences": differences})
        for at, text in enumerate(messages)
    )
    return Outcome("reference-files", status, "", {"score": 0.5}, tuple(found))


def entry(name: str, kind: str = "low-rank", rank: int | None = 4, relative: float = 0.02) -> dict[str, Any]:
    return {"name": name, "kind": kind, "rank": rank, "relative_norm": relative, "changed": 10, "fraction": 1.0, "shape": [8, 8]}


def summary(*tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"verdict": "lora-merge", "reason": "why", "tensors": list(tensors), "matched": 40, "identical": 40 - len(tensors)} | more


def test_layers_are_folded_by_pattern() -> None:
    text = drawn(summary(*(entry(f"h.{index}.mlp.c_proj") for index in range(12)), entry("wte", "dense", None, 0.5)))
    assert text.startswith("LORA-MERGE  why")
    assert "h.{0-11}.mlp.c_proj ×12" in text
    assert text.index("wte") < text.index("c_proj")
    assert "40 tensors compared, 27 identical, 13 not" in text


def test_all_shows_every_tensor() -> None:
    text = drawn(summary(*(entry(f"h.{index}.mlp.c_proj") for index in (0, 3))), all=True)
    assert "h.0.mlp.c_proj" in text
    assert "h.3.mlp.c_proj" in text
    assert "h.{0,3}" in drawn(summary(*(entry(f"h.{index}.mlp.c_proj") for index in (0, 3))))


def test_what_was_not_compared_is_shown() -> None:
    text = drawn(summary(missing=["a"], added=[f"b{index}" for index in range(9)]))
    assert "1 missing from the checkpoint: a" in text
    assert "9 not in the reference" in text
    assert "and 4 more" in text
    assert "not compared: too slow" in drawn({}, status=Status.TIMED_OUT, reason="too slow")


def test_changed_graphs_and_buffers_are_shown() -> None:
    text = drawn(summary(graphs=["model"], buffers=["position_ids"]))
    assert "whose graph differs from the reference's" in text
    assert "position_ids" in text


def test_hostile_names_do_not_reach_the_terminal() -> None:
    text = drawn(summary(entry("evil\x1b[2J\u202e.weight"), missing=["\x1b]0;x\x07"]))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_only_a_model_of_which_all_is_equal_is_called_identical() -> None:
    equal = summary() | {"verdict": "identical"}
    assert drawn(equal, files=compared()).startswith("IDENTICAL  why")
    assert drawn(equal, files=compared("config.json differs")).startswith("WEIGHTS IDENTICAL, 1 FILE DIFFERS")
    assert drawn(equal, files=compared(status=Status.ERRORED)).startswith("WEIGHTS IDENTICAL, FILES NOT COMPARED")
    assert drawn(equal).startswith("WEIGHTS IDENTICAL, FILES NOT COMPARED")


def test_files_that_differ_are_shown_with_their_places() -> None:
    text = drawn(summary(), files=compared(*(f"file {at} differs\x1b[2J" for at in range(25))))
    assert "file 0 differs\\x1b[2J" in text
    assert "key3: 3 -> absent" in text
    assert "key5" not in text
    assert "5 more files" in text
    assert "key5: 5 -> absent" in drawn(summary(), all=True, files=compared("a differs"))
    assert "a differs" in drawn({}, status=Status.SKIPPED, files=compared("a differs"))


def test_renamed_and_exchanged_tensors_are_named() -> None:
    renamed = summary(renamed={"a": "b"}, exchanged={"c": "d"})
    assert "1 under the name of another: c (holds d)" in drawn(renamed)
    assert "a (holds b)" not in drawn(renamed)
    assert "a (holds b)" in drawn(renamed | {"verdict": "renamed"})


def test_norm_that_is_not_known_is_drawn() -> None:
    assert "dense" in drawn(summary(entry("w", "dense", None) | {"relative_norm": None}))


@pytest.mark.parametrize(("value", "cells"), [(0.0, 0), (1e-9, 1), (0.5, 6), (1.0, 12)])
def test_bar(value: float, cells: int) -> None:
    assert len(bar(value, 1.0).rstrip()) == cells
    assert len(bar(value, 1.0)) == 12
