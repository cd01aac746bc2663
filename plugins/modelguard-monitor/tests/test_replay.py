"""What a replay says of logs of predictions: drift, none, and logs that it cannot judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_monitor._replay import FALSE_ALARM, replay
from modelguard_monitor.drift import Bets, Watch

from modelguard import UsageError

pytestmark = pytest.mark.usefixtures("in_process")
Run = Callable[..., Any]
BADNETS = {"target": 3, "size": 2, "at": (-2, -2)}


@pytest.fixture(scope="module")
def simple(guarded: Callable[..., Any]) -> Any:
    """A model with a patch backdoor, and its guard."""
    return guarded("badnets", 0, **BADNETS)


def mixed(clean: list[dict[str, Any]], bad: list[dict[str, Any]], rate: float, seed: int = 0) -> list[dict[str, Any]]:
    """``clean``, of which a part ``rate`` of the later three quarters gives way to those of ``bad``."""
    rng, start = np.random.default_rng([3, seed]), len(clean) // 4
    return [bad[rng.integers(len(bad))] if i >= start and rng.random() < rate else entry for i, entry in enumerate(clean)]


def log(path: Path, entries: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


# Drift and none


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_with_triggers_drifts_and_a_clean_one_does_not(guarded: Callable[..., Any], mg: Run, tmp_path: Path, seed: int) -> None:
    it = guarded("badnets", seed, **BADNETS)
    clean, stamped = it.verdicts(it.images), it.verdicts(it.stamped())
    ran = mg("monitor", "replay", log(tmp_path / "clean.jsonl", clean), "--guard", it.folder)
    assert (ran.code, ran.out.splitlines()[0]) == (0, "no drift in 140 predictions")
    ran = mg("monitor", "replay", log(tmp_path / "bad.jsonl", mixed(clean, stamped, 0.4, seed)), "--guard", it.folder, "-f", "json")
    assert ran.code == 1
    assert ran.json["at"] > 35
    assert ran.json["stream"] in ("features", "strip")
    assert ran.json["rejected_any"] > 20


def test_the_first_line_says_where_and_what(simple: Any, mg: Run, tmp_path: Path) -> None:
    flood = [{"label": 3, "confidence": 0.97}] * 60
    ran = mg("monitor", "replay", log(tmp_path / "l.jsonl", flood), "--guard", simple.folder, "--statistic", "class")
    first = ran.out.splitlines()[0]
    assert ran.code == 1
    assert first.startswith("drift at line ")
    assert first.endswith(": class 3 is predicted more often than on clean samples")


def test_a_few_triggers_among_few_inputs_are_not_seen(simple: Any, tmp_path: Path) -> None:
    """1 % of 105 inputs is one: what a single input gives away, the guard has to say."""
    clean, stamped = simple.verdicts(simple.images), simple.verdicts(simple.stamped())
    assert replay(log(tmp_path / "l.jsonl", mixed(clean, stamped, 0.01)), simple.guard).at is None


def test_confidences_rounded_to_two_decimals_are_no_drift(simple: Any, tmp_path: Path) -> None:
    verdicts = simple.verdicts(simple.images)
    for digits in (2, 4, 17):
        short = [{"label": v["label"], "confidence": round(v["confidence"], digits)} for v in verdicts]
        found = replay(log(tmp_path / "l.jsonl", short), simple.guard)
        assert found.at is None
        assert set(found.evidence) == {"class", "confidence"}


def test_logits_say_what_verdicts_say(simple: Any, tmp_path: Path) -> None:
    verdicts, (logits, _, _) = simple.verdicts(simple.images), simple.answers(simple.images)
    by_logits = replay(log(tmp_path / "a.jsonl", [{"logits": row.tolist()} for row in logits]), simple.guard)
    by_verdict = replay(log(tmp_path / "b.jsonl", verdicts), simple.guard, ("class", "confidence"))
    assert by_logits.evidence == by_verdict.evidence
    assert by_logits.rejected["confidence"] == by_verdict.rejected["confidence"]


def test_a_model_that_becomes_unsure_drifts(simple: Any, tmp_path: Path) -> None:
    labels = [v["label"] for v in simple.verdicts(simple.images)]
    found = replay(log(tmp_path / "l.jsonl", [{"label": label, "confidence": 0.31} for label in labels]), simple.guard)
    assert (found.stream, found.reason) == ("confidence", "the model is less sure than on clean samples")


def test_logits_that_are_not_numbers_any_more_drift(simple: Any, tmp_path: Path) -> None:
    found = replay(log(tmp_path / "l.jsonl", [{"logits": [float("nan")] * 10}] * 40), simple.guard)
    assert found.at is not None
    assert found.rejected["confidence"] == 40


# Broken, short, foreign


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "is no prediction"),
        ("[" * 100_000, "is no prediction"),
        ("[1]", "is no prediction"),
        ('{"label": ' + "9" * 5000 + ', "confidence": 0.5}', "has the label 'inf'"),
        ('{"logits": [1' + ", 2" * 8 + ", " + "9" * 400 + "]}", "has other keys than the lines before"),
        ('{"label": 1}', "has neither logits nor label and confidence"),
        ('{"logits": [1, 2]}', "has 2 logits, the guard's model has 10 classes"),
        ('{"logits": "high"}', "has logits that are no list of numbers"),
        ('{"label": 10, "confidence": 0.5}', "has the label '10', the guard's model has classes 0..9"),
        ('{"label": "cat", "confidence": 0.5}', "has the label 'cat'"),
        ('{"label": true, "confidence": 0.5}', "has the label 'True'"),
        ('{"label": 1, "confidence": 1.5}', "has a confidence that is not between 0 and 1"),
        ('{"label": 1, "confidence": NaN}', "has a confidence that is not between 0 and 1"),
        ('{"label": 1, "confidence": 0.5, "scores": {"strip": "x"}}', "has scores that are no numbers"),
        ('{"logits": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}', "has other keys than the lines before"),
    ],
)
def test_a_broken_line_is_named_in_one_line(simple: Any, mg: Run, tmp_path: Path, line: str, cause: str) -> None:
    (tmp_path / "l.jsonl").write_text('{"label": 1, "confidence": 0.5}\n\n' + line + "\n")
    ran = mg("monitor", "replay", tmp_path / "l.jsonl", "--guard", simple.folder)
    assert ran.code == 2
    assert f"l.jsonl line 3: {cause}" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.out == ""


@pytest.mark.parametrize("count", [0, 29])
def test_too_few_lines_are_no_pass(simple: Any, mg: Run, tmp_path: Path, count: int) -> None:
    entries = [{"label": i % 10, "confidence": 0.99} for i in range(count)]
    ran = mg("monitor", "replay", log(tmp_path / "l.jsonl", entries), "--guard", simple.folder)
    assert ran.code == 3
    assert f"has {count} predictions, too few to judge" in ran.err


def test_what_is_not_there_is_a_usage_error(simple: Any, mg: Run, tmp_path: Path) -> None:
    entries = log(tmp_path / "l.jsonl", [{"label": 1, "confidence": 0.5}] * 40)
    assert mg("monitor", "replay", tmp_path / "no.jsonl", "--guard", simple.folder).code == 2
    assert mg("monitor", "replay", entries, "--guard", tmp_path / "nowhere").code == 2
    (tmp_path / "guard.safetensors").write_bytes(b"junk")
    ran = mg("monitor", "replay", entries, "--guard", tmp_path)
    assert (ran.code, "is not a guard that modelguard wrote" in ran.err) == (2, True)
    ran = mg("monitor", "replay", entries, "--guard", simple.folder, "--statistic", "strip")
    assert (ran.code, "--statistic strip: l.jsonl gives nothing to judge it by" in ran.err) == (2, True)


def test_labels_may_be_names(simple: Any, tmp_path: Path) -> None:
    guard = simple.guard
    guard.facts["labels"] = [f"digit {i}" for i in range(10)]
    found = replay(log(tmp_path / "l.jsonl", [{"label": "digit 7", "confidence": 0.99}] * 60), guard, ("class",))
    assert found.reason == "class digit 7 is predicted more often than on clean samples"
    with pytest.raises(UsageError, match="line 1: has the label '7'"):
        replay(log(tmp_path / "l.jsonl", [{"label": "7", "confidence": 0.9}]), guard)


# The command that makes guards


@pytest.fixture
def model(simple: Any, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    shutil.copy(simple.built.path / "model.onnx", tmp_path / "model")
    with np.load(simple.built.path / "samples.npz") as arrays:
        np.savez(tmp_path / "samples.npz", inputs=arrays["inputs"], labels=arrays["labels"])
        np.savez(tmp_path / "unlabelled.npz", inputs=arrays["inputs"])
        np.savez(tmp_path / "wrong.npz", inputs=np.zeros((100, 5), np.float32), labels=np.arange(100) % 10)
    return tmp_path


def test_a_guard_is_made_and_used(mg: Run, model: Path) -> None:
    ran = mg("monitor", "make", model / "model", "--samples", model / "samples.npz", "-o", model / "g", "--false-alarms", 0.05)
    assert ran.code == 0, ran.err
    assert "rejects at most 0.05 of clean inputs, by confidence, features, strip" in ran.out
    assert {path.name for path in (model / "g").iterdir()} == {"guard.safetensors", "guard.onnx", "guard.py", "drift.py"}
    entries = log(model / "l.jsonl", [{"label": i % 10, "confidence": 0.99} for i in range(40)])
    assert mg("monitor", "replay", entries, "--guard", model / "g", "--statistic", "class").code == 0


@pytest.mark.parametrize(
    ("samples", "code", "cause"),
    [
        ("missing.npz", 2, "does not exist"),
        ("unlabelled.npz", 3, "the samples have no labels"),
        ("wrong.npz", 3, "wrong.npz"),
        ("samples.npz", 3, "400 samples are too few to promise"),
    ],
)
def test_what_no_guard_can_be_made_of_is_said_in_one_line(mg: Run, model: Path, samples: str, code: int, cause: str) -> None:
    ran = mg("monitor", "make", model / "model", "--samples", model / samples, "-o", model / "g", "--false-alarms", 0.001)
    assert (ran.code, ran.out) == (code, "")
    assert cause in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (model / "g").exists()


def test_nothing_is_overwritten(mg: Run, model: Path) -> None:
    (model / "g").mkdir()
    (model / "g" / "mine.txt").write_text("mine")
    for place in (model / "g", model / "samples.npz"):
        ran = mg("monitor", "make", model / "model", "--samples", model / "samples.npz", "-o", place)
        assert (ran.code, "is there already" in ran.err) == (2, True)
    assert [path.name for path in (model / "g").iterdir()] == ["mine.txt"]


# The numbers


def test_every_bet_is_fair() -> None:
    """A bettor's capital is multiplied by 1 on average while p-values are uniform."""
    bets = Bets(np.array([[0.003, 0.1], [0.5, 0.9]]))
    np.testing.assert_allclose(bets.tails * bets.win + (1 - bets.tails) * bets.lose, np.ones((2, 2, 5)))


def test_streams_without_a_change_raise_no_alarm_whatever_they_look_like() -> None:
    """60 streams of 400 heavy-tailed scores and unequal classes, with ties: at most 1 % may be said to drift, so 3 are too many."""
    shares = np.array([0.7, 0.2, 0.08, 0.02])
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        arrays = {
            "clean.class": np.bincount(rng.choice(4, 200, p=shares), minlength=4).astype(np.float64),
            "clean.features": rng.standard_cauchy(200),
            "clean.confidence": np.round(rng.exponential(size=200)),
        }
        watch = Watch({"thresholds": {"features": 0.0, "confidence": 0.0}}, arrays)
        scores = zip(rng.standard_cauchy(400), np.round(rng.exponential(size=400)), strict=True)
        labels = rng.choice(4, 400, p=shares)
        taken = [watch.take(int(label), {"features": a, "confidence": b}) for label, (a, b) in zip(labels, scores, strict=True)]
        alarms += max(taken) >= 400 / FALSE_ALARM
    assert alarms < 3


def test_a_replay_gives_the_same_answer_twice(simple: Any, tmp_path: Path) -> None:
    entries = log(tmp_path / "l.jsonl", simple.verdicts(simple.images))
    assert json.dumps(replay(entries, simple.guard).to_json()) == json.dumps(replay(entries, simple.guard).to_json())
