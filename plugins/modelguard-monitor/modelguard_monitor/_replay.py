"""A log of predictions, judged line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from modelguard import UsageError
from modelguard_monitor.drift import ENDS, Watch
from modelguard_monitor.guard import Guard, unsure

FORMS = 'write {"logits": [...]} or {"label": ..., "confidence": ...} on each'
LINE = 16 << 20
"""Bytes of a line that are read."""
FALSE_ALARM = 0.01
"""The chance that a clean log is said to drift, at most, however long it is."""
DIGITS = 2
"""Decimals of a confidence that stands for itself: logs are rounded, and what is finer would look like drift."""
GREW = {
    "features": "features are less like those of clean inputs of the class predicted",
    "strip": "more predictions stay the same whatever is laid over the input, as they do with a trigger",
}


@dataclass(frozen=True)
class Line:
    """One prediction: its class and its scores by statistic. ``rounded`` says that its confidence stands for itself, and may be rounded."""

    number: int
    label: int
    scores: Mapping[str, float]
    rounded: bool = False


@dataclass(frozen=True)
class Replayed:
    """``at`` is the line where drift was found, None where there is none; ``stream`` and ``reason`` say in what. ``evidence`` is the
    largest there was by stream, as a part of what makes an alarm. ``rejected`` are lines above the guard's thresholds, by statistic."""

    lines: int
    at: int | None
    stream: str | None
    reason: str
    evidence: Mapping[str, float]
    rejected: Mapping[str, int]
    rejected_any: int

    def to_json(self) -> dict[str, Any]:
        return {"schema": "modelguard-replay/1", "drift": self.at is not None, "false_alarm": FALSE_ALARM, **asdict(self)}


def load_guard(folder: Path) -> Guard:
    """The guard in ``folder``. Raises :class:`~modelguard.UsageError`."""
    remedy = "give the folder that `modelguard monitor make` wrote"
    try:
        return Guard(folder / "guard.safetensors")
    except OSError as error:
        raise UsageError(f"--guard {folder}", f"has no guard that can be read ({error.strerror or error})", remedy) from error
    except ValueError as error:
        raise UsageError(f"--guard {folder}", str(error), remedy) from error


def replay(log: Path, guard: Guard, streams: tuple[str, ...] = ()) -> Replayed:
    """Judge the predictions in ``log`` by ``guard``; ``streams`` are those watched, by default all that the log has.

    Raises :class:`~modelguard.UsageError` for a line that is no prediction of the guard's model.
    """
    level = sum(1 for _ in predictions(log, guard)) / FALSE_ALARM
    watch: Watch | None = None
    at, stream, reason, lines, any_ = None, None, "", 0, 0
    evidence: dict[str, float] = {}
    rejected = dict.fromkeys(guard.thresholds, 0)
    for line in predictions(log, guard):
        lines += 1
        if watch is None:
            watch = _watch(guard, line, log, streams)
            evidence, rejected = dict.fromkeys(watch.streams, 0.0), {name: 0 for name in rejected if name in line.scores}
        above = [name for name in rejected if not line.scores[name] <= guard.thresholds[name]]
        any_ += bool(above)
        for name in above:
            rejected[name] += 1
        if at is None:
            watch.take(line.label, watched(line))
            for name, now in watch.evidence.items():
                evidence[name] = max(evidence[name], now / level)
            stream = max(evidence, key=evidence.__getitem__)
            if evidence[stream] >= 1:
                at, reason = line.number, _reason(watch, stream, guard)
    evidence = {name: float(f"{value:.3g}") for name, value in evidence.items()}
    return Replayed(lines, at, stream if at else None, reason, evidence, rejected, any_)


def predictions(log: Path, guard: Guard) -> Iterator[Line]:
    """The lines of ``log``, all with the same keys. Raises :class:`~modelguard.UsageError`, naming the line."""
    keys: frozenset[str] | None = None
    labels = {str(name): place for place, name in enumerate(guard.facts["labels"])}
    try:
        with log.open("rb") as file:
            for number, text in enumerate(iter(lambda: file.readline(LINE + 1), b""), 1):
                if not text.strip():
                    continue
                try:
                    line, found = _line(number, _entry(text), guard, labels)
                except ValueError as error:
                    raise UsageError(f"{log.name} line {number}", str(error), FORMS) from None
                if keys is not None and found != keys:
                    raise UsageError(
                        f"{log.name} line {number}", "has other keys than the lines before", "log the same of every prediction"
                    )
                keys = found
                yield line
    except OSError as error:
        raise UsageError(str(log), f"cannot be read ({error.strerror or error})", "check the path") from error


def _entry(text: bytes) -> dict[str, Any]:
    """The object in a line. Raises ``ValueError``, as :func:`_line` does."""
    try:
        entry = json.loads(text, parse_int=_whole) if len(text) <= LINE else None
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise ValueError("is no prediction")
    return entry


def _whole(text: str) -> int | float:
    """A whole number, as a float where it has more digits than one can hold exactly."""
    return int(text) if len(text) < 16 else float(text)


def _line(number: int, entry: Mapping[str, Any], guard: Guard, labels: Mapping[str, int]) -> tuple[Line, frozenset[str]]:
    """Raises ``ValueError`` with words that complete "line N ..."."""
    classes = len(guard.arrays["clean.class"])
    extra = entry.get("scores", {})
    if not isinstance(extra, dict) or not all(_number(value) for value in extra.values()):
        raise ValueError("has scores that are no numbers")
    scores = {name: math.inf if math.isnan(extra[name]) else float(extra[name]) for name in guard.thresholds if name in extra}
    keys = frozenset(entry) & {"logits", "label", "confidence"} | scores.keys()
    if "logits" in entry:
        logits = entry["logits"]
        if not isinstance(logits, list) or not all(_number(value) for value in logits):
            raise ValueError("has logits that are no list of numbers")
        if len(logits) != classes:
            raise ValueError(f"has {len(logits)} logits, the guard's model has {classes} classes")
        z = np.array([logits], np.float64)
        scores["confidence"] = float(unsure(z)[0]) if np.isfinite(z).all() else math.inf
        return Line(number, int(z.argmax()), scores), keys
    label, confidence = entry.get("label"), entry.get("confidence")
    if "label" not in entry or "confidence" not in entry:
        raise ValueError("has neither logits nor label and confidence")
    place = labels.get(label) if isinstance(label, str) else label
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < classes:
        raise ValueError(f"has the label {str(label)[:40]!r}, the guard's model has classes 0..{classes - 1}")
    if not _number(confidence) or not 0 <= confidence <= 1:
        raise ValueError("has a confidence that is not between 0 and 1")
    rounded = "confidence" not in scores
    scores.setdefault("confidence", odds(confidence))
    return Line(number, place, scores, rounded), keys


def watched(line: Line) -> Mapping[str, float]:
    """The scores of ``line`` as they are watched: a confidence that may be rounded is rounded to :data:`DIGITS`."""
    return {**line.scores, "confidence": coarse(line.scores["confidence"])} if line.rounded else line.scores


def coarse(score: float) -> float:
    """The score of the same confidence, rounded."""
    return odds(round(1 / (1 + math.exp(min(score, 700.0))), DIGITS))


def odds(confidence: float) -> float:
    """The score of a confidence, as :func:`~modelguard_monitor.guard.unsure` gives it for logits."""
    return math.inf if confidence <= 0 else -math.inf if confidence >= 1 else math.log((1 - confidence) / confidence)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _watch(guard: Guard, first: Line, log: Path, streams: tuple[str, ...]) -> Watch:
    """What watches a log that begins with ``first``. Raises :class:`~modelguard.UsageError` where it lacks what was asked for."""
    there = ("class", *(name for name in guard.thresholds if name in first.scores))
    if missing := [name for name in streams if name not in there]:
        remedy = "log verdicts of guard.py, which have all scores" if set(missing) <= set(guard.thresholds) else "make a guard that has it"
        raise UsageError(f"--statistic {missing[0]}", f"{log.name} gives nothing to judge it by with this guard", remedy)
    arrays = dict(guard.arrays)
    if first.rounded and "confidence" in guard.thresholds:
        arrays["clean.confidence"] = np.array([coarse(score) for score in arrays["clean.confidence"]])
    return Watch(guard.facts, arrays, streams or there)


def _reason(watch: Watch, stream: str, guard: Guard) -> str:
    end = watch.end(stream)
    if stream == "class":
        names = guard.facts["labels"]
        return f"class {names[end] if names else end} is predicted more often than on clean samples"
    if stream in ENDS:
        return f"the model is {ENDS[stream][end]} than on clean samples"
    return GREW[stream]
