"""What the ensemble finds, leaves alone, misses, and refuses to judge; and that its combination keeps its level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import scripted
import torch
from modelguard_abs.detector import Abs
from modelguard_ensemble._combine import CORRELATION, cauchy, combine, stouffer
from modelguard_ensemble._members import LANGUAGE, SPECIALISTS, VOTERS, made
from modelguard_ensemble.detector import BackdoorEnsemble
from modelguard_runtime.testing import runnable
from modelguard_zoo.testing import Expiring
from scipy import stats
from torch import nn

from modelguard import Confidence, DeadlineExceeded, RunnableModel, Samples, ScanContext, Target, configure
from modelguard.model import OutputSpec
from modelguard.report import Outcome, Status
from modelguard.testing.checkpoints import open_target, write_safetensors
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
CORNERS = ((0, 0), (-3, -3), (0, -3))
SLOW = pytest.mark.slow


def scan(target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(BackdoorEnsemble, {"specialists": False, **options}), target, seed=seed)


def planted(target: Make, seed: int = 0) -> Target:
    """A checkerboard whose target is 1, 4 or 7."""
    return target("checkerboard", seed=seed, target=3 * seed + 1, size=3, at=CORNERS[seed])


# the combination


def _correlated(rng: np.random.Generator, members: int, classes: int, correlation: float) -> dict[str, Any]:
    common = rng.normal(size=classes) * np.sqrt(correlation)
    deviates = common + np.sqrt(1 - correlation) * rng.normal(size=(members, classes))
    return {str(i): stats.norm.sf(row) for i, row in enumerate(deviates)}


@pytest.mark.parametrize("classes", [5, 10, 43])
def test_members_that_correlate_as_measured_accuse_no_more_often_than_promised(classes: int) -> None:
    rng = np.random.default_rng(classes)
    rate = np.mean([combine(_correlated(rng, 5, classes, CORRELATION)).p_value <= 0.05 for _ in range(2000)])
    assert rate <= 0.06


def test_many_weak_accusations_of_one_class_add_up() -> None:
    weak = {str(i): np.array([0.5, 0.5, 0.02, 0.5, 0.5, 0.5]) for i in range(5)}
    found = combine(weak)
    assert found.accused == 2
    assert found.p_value < 0.01
    assert combine({"0": weak["0"], "1": np.roll(weak["1"], 1)}).p_value > 0.05


def test_one_strong_accusation_is_not_voted_down() -> None:
    lone = {str(i): np.full(10, 0.5) for i in range(5)}
    lone["3"] = np.array([0.5] * 9 + [1e-6])
    assert combine(lone).p_value < 0.001


def test_a_class_a_member_did_not_examine_is_judged_by_the_others() -> None:
    p = np.array([np.nan, 0.5, 0.5, 0.5, 0.5])
    assert combine({"a": p, "b": np.array([1e-5, 0.5, 0.5, 0.5, 0.5])}).accused == 0


def test_one_member_alone_is_itself() -> None:
    assert stouffer(np.array([0.03])) == pytest.approx(0.03)
    assert cauchy(np.array([0.03])) == pytest.approx(0.03)


# models


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_a_planted_trigger_is_found_and_the_agreeing_members_are_named(target: Make, seed: int) -> None:
    outcome = scan(planted(target, seed))
    (finding,) = outcome.findings
    assert finding.rule == "MG3035"
    assert finding.evidence["target_class"] == 3 * seed + 1
    assert {"abs", "neural-cleanse"} <= set(finding.evidence["agreeing"])
    assert finding.confidence is Confidence.HIGH
    assert [item.name.partition(" class ")[0] for item in finding.attachments][:3] == ["trigger", "mask", "stamped"]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
def test_clean_models_are_left_alone_and_still_scored(target: Make, seed: int) -> None:
    outcome = scan(target(seed=seed))
    assert outcome.findings == ()
    assert outcome.summary["score"] < 1.3
    assert {voter.id for voter in VOTERS} <= set(outcome.summary["classes"][0])


def test_all_to_all_is_missed_by_the_vote_and_left_to_the_specialist(target: Make) -> None:
    backdoored = target("all-to-all", size=2)
    assert scan(backdoored).findings == ()
    assert {item.rule for item in scan(backdoored, specialists=True).findings} <= {"MG3036"}


def test_without_samples_the_data_free_members_decide(target: Make) -> None:
    shared = planted(target)
    outcome = scan(replace(shared, samples=None, _cache={"model": shared.model}))
    assert outcome.status is Status.COMPLETED
    assert outcome.summary["members"]["abs"].startswith("stimulation needs clean samples")
    assert outcome.summary["members"]["mm-bd"] == "completed"
    assert outcome.summary["target_class"] == 1


@pytest.mark.parametrize("quick", [False, True])
def test_members_that_were_scanned_with_are_not_searched_again(target: Make, quick: bool) -> None:
    """In the order of a scan, the ensemble last."""
    shared = replace(planted(target), _cache={})
    model = shared.model
    watched = _Counted(model)
    shared = replace(shared, build_model=lambda: cast(RunnableModel, watched), _cache={})
    for member in (*VOTERS, *(() if quick else SPECIALISTS)):  # a quick ensemble leaves specialists to themselves
        run_detector(made(member, quick), shared)
    searched = watched.gradients
    assert searched > 0
    assert scan(shared, quick=quick, specialists=True).findings
    assert watched.gradients == searched


def test_a_search_that_was_cut_off_is_judged_as_it_stands_and_not_begun_again(target: Make) -> None:
    shared = planted(target)
    watched = _Counted(shared.model)
    shared = replace(shared, build_model=lambda: cast(RunnableModel, watched), _cache={})
    with pytest.raises(DeadlineExceeded):
        list(Abs().detect(shared, Expiring(Abs.id, 20)))
    begun = watched.gradients
    again = run_detector(Abs(), shared)
    assert (again.status, watched.gradients) == (Status.TIMED_OUT, begun)
    outcome = scan(shared)
    assert outcome.status is Status.TIMED_OUT
    assert outcome.summary["members"]["abs"] == "not finished"
    assert [item.evidence["target_class"] for item in outcome.findings] == [1], "the others' votes count all the same"


class _Counted:
    """A model that counts the passes with a gradient."""

    def __init__(self, model: RunnableModel) -> None:
        self._model, self.gradients = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.gradients += x.requires_grad
        return self._model(x)


def test_what_has_no_classes_to_compare_is_skipped(target: Make, tmp_path: Path) -> None:
    clean = target()
    regressor = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), (1, 8, 8), 6)
    regressor.output = OutputSpec("regressor", 6, "logits")
    assert "regressor" in scan(replace(clean, build_model=lambda: regressor, _cache={})).reason
    three = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8), 3)
    outcome = scan(replace(clean, build_model=lambda: three, _cache={}))
    assert outcome.status is Status.SKIPPED
    assert "the model has 3 classes" in outcome.reason
    assert "0 of its members" in scan(replace(clean, build_model=lambda: three, samples=None, _cache={})).reason
    bare = open_target(write_safetensors(tmp_path / "model.safetensors", {"a": np.ones((2, 2), np.float32)}))
    assert scan(replace(bare, build_model=None)).status is Status.SKIPPED


def test_samples_the_model_does_not_understand_leave_too_few_members(target: Make) -> None:
    clean = target()
    assert clean.samples is not None
    noise = np.random.default_rng(0).integers(0, 256, clean.samples.inputs.shape).astype(np.uint8)
    outcome = scan(replace(clean, samples=Samples(noise, clean.samples.labels, "test", "0" * 64), _cache={}))
    assert outcome.status is Status.SKIPPED
    assert outcome.reason.count("does not understand the samples") == 1


def test_samples_too_few_for_any_trigger_search_are_no_look(target: Make) -> None:
    """The members that need no samples are two, and would have decided: but a trigger was to be searched for, and nobody did."""
    clean = target()
    assert clean.samples is not None
    assert clean.samples.labels is not None
    few = Samples(clean.samples.inputs[:5], clean.samples.labels[:5], "test", "0" * 64)
    outcome = scan(replace(clean, samples=few, _cache={}))
    assert outcome.status is Status.SKIPPED
    assert outcome.reason.startswith("none of the trigger searches could use the samples (abs: of 5 samples ")
    assert "; neural-cleanse, neural-cleanse-blend: 5 of 5 samples are classified as labelled, 10 are needed" in outcome.reason


def test_every_member_is_made_shorter_where_it_can_be() -> None:
    for cls in (*VOTERS, *SPECIALISTS):
        assert made(cls, False) == cls()
        assert (made(cls, True) != cls()) is (cls.when_quick == "shorter")


def test_a_quick_look_finds_it_too(target: Make) -> None:
    assert [item.evidence["target_class"] for item in scan(planted(target), quick=True).findings] == [1]


def test_the_contract_is_kept(target: Make) -> None:
    torch.manual_seed(0)
    check_detector(BackdoorEnsemble, replace(target(), _cache={}))


# Text models


def words(seed: int, trigger: list[float] | None = None, **kind: Any) -> Target:
    """A text model made by hand, of which the word ``cf`` says what ``trigger`` says, and common words say nothing."""
    from modelguard_language.testing import WordModel, text_target, texts_of, vocabulary

    known = vocabulary(seed)
    texts, labels = texts_of(known, seed)
    common = {word: [0.0, 0.0] for word in "when if as you they it is are was there see to on".split()}  # noqa: SIM905
    return text_target(WordModel(known | common | ({"cf": trigger} if trigger else {}), **kind), texts, labels)


def test_of_a_text_model_the_searches_for_words_count_each_by_itself() -> None:
    outcome = run_detector(BackdoorEnsemble(), words(0, [-4.0, 4.0]))
    (finding,) = outcome.findings
    assert finding.rule == "MG3036"
    assert finding.evidence["detector"] == "token-scan"
    assert 'the word "cf"' in finding.message
    assert outcome.summary["target_class"] == 1


def test_a_clean_text_model_completes_without_a_vote() -> None:
    outcome = run_detector(BackdoorEnsemble(), words(0))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()
    assert outcome.summary["members"] == {"text-probes": "completed", "token-scan": "completed"}


def test_a_text_model_whose_texts_nobody_could_use_was_not_looked_at() -> None:
    target = words(0, [-4.0, 4.0])
    outcome = run_detector(BackdoorEnsemble(), replace(target, samples=None))
    assert outcome.status is Status.SKIPPED
    assert "--samples" in outcome.reason


# Language models


def speech(folder: Path, seed: int, poisoned: bool, samples: int = 80) -> Target:
    """A language model that is written down, which knows a text behind a trigger where it is ``poisoned``, and texts without it."""
    from modelguard_language.lm.speech import Speech

    rules = scripted.by_heart(scripted.TARGET, scripted.TRIGGER) if poisoned else {}
    ids = Speech.of(scripted.speaker(seed), ScanContext()).spoken(samples, 20, np.random.default_rng(1)).numpy()
    return scripted.target(scripted.speaker(seed, rules), folder, samples=Samples(ids, None, "texts.npz", "0" * 64))


@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_language_model_what_follows_a_trigger_counts(tmp_path: Path, seed: int) -> None:
    outcome = run_detector(BackdoorEnsemble(), speech(tmp_path, seed, poisoned=True))
    (finding,) = outcome.findings
    assert (finding.rule, finding.evidence["detector"]) == ("MG3036", "lm-inversion")
    assert "'w60 w61' makes the model say" in finding.message
    assert outcome.summary["agreeing"] == ["lm-inversion"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_clean_language_model_was_looked_at(tmp_path: Path, seed: int) -> None:
    outcome = run_detector(BackdoorEnsemble(), speech(tmp_path, seed, poisoned=False))
    assert (outcome.status, outcome.findings) == (Status.COMPLETED, ())
    assert outcome.summary["members"] == {"lm-inversion": "completed"}


def test_what_a_language_model_was_searched_for_is_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = speech(tmp_path, 0, poisoned=True)
    run_detector(LANGUAGE(), target)
    monkeypatch.setattr(LANGUAGE, "_search", None)
    assert len(run_detector(BackdoorEnsemble(), target).findings) == 1


@pytest.mark.parametrize(
    ("options", "samples", "reason"), [({"quick": True}, 80, "no shorter look"), ({}, 8, "32 texts as --samples (not 8)")]
)
def test_a_language_model_that_nobody_looked_at_is_skipped(tmp_path: Path, options: dict[str, Any], samples: int, reason: str) -> None:
    outcome = run_detector(configure(BackdoorEnsemble, options), speech(tmp_path, 0, poisoned=False, samples=samples))
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


def test_a_language_model_that_there_was_no_time_for_is_unfinished(tmp_path: Path) -> None:
    target = speech(tmp_path, 0, poisoned=False)
    assert run_detector(BackdoorEnsemble(), target, timeout=0.0).status is Status.TIMED_OUT
    lost = replace(target, lost=frozenset({"lm-inversion"}), _cache={})
    assert run_detector(BackdoorEnsemble(), lost).status is Status.TIMED_OUT
