"""What the detectors find, leave alone, miss, and refuse to judge, on models trained for the purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_neural_cleanse._search import Search
from modelguard_neural_cleanse.detectors import (
    BlendCleanse,
    ColourCleanse,
    LabelMapCleanse,
    NeuralCleanse,
    SourceCleanse,
    WarpCleanse,
)
from modelguard_runtime.testing import runnable
from modelguard_zoo import Built
from modelguard_zoo.testing import Expiring
from torch import nn

from modelguard import Confidence, DeadlineExceeded, Detector, ModelError, ModelOptions, Samples, ScanContext, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.checkpoints import open_target
from modelguard.testing.conformance import check_detector, run_detector

ALL = (NeuralCleanse, BlendCleanse, WarpCleanse, ColourCleanse, LabelMapCleanse, SourceCleanse)
Make = Callable[..., Target]
SLOW = pytest.mark.slow


def scan(cls: type[Detector], target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(cls, options), target, seed=seed)


def accused(outcome: Outcome) -> list[int | None]:
    return [item.evidence["target_class"] for item in outcome.findings]


def samples(inputs: Any, labels: Any = None) -> Samples:
    return Samples(np.asarray(inputs), None if labels is None else np.asarray(labels, np.int64), "test", "0" * 64)


def rebuilt(original: Target, module: nn.Module, inputs: Any, labels: Any, classes: int) -> Target:
    """``original`` with another network in its place."""
    model = runnable(module.eval(), (1, 8, 8), classes, high=255.0)
    return replace(original, samples=samples(inputs, labels), build_model=lambda: model, _cache={})


def showing(original: Target, many: tuple[int, ...], single: tuple[int, ...] = ()) -> Target:
    """``original`` with its samples of the classes ``many``, and with one of each in ``single`` that the model classifies as labelled."""
    assert original.samples is not None
    assert original.samples.labels is not None
    labels = original.samples.labels
    right = original.model.predict(original.model.inputs(original.samples).numpy()).argmax(1) == labels
    chosen = np.concatenate([np.flatnonzero(np.isin(labels, many)), *(np.flatnonzero(right & (labels == label))[:1] for label in single)])
    return replace(original, samples=samples(original.samples.inputs[chosen], labels[chosen]), _cache={})


# planted triggers


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
def test_a_patch_is_found_with_its_class(target: Make, seed: int) -> None:
    where = [(0, 0), (-2, -2), (3, 3), (0, -2), (-2, 0)][seed]
    outcome = scan(NeuralCleanse, target("badnets", seed=seed, target=(3 * seed + 1) % 10, size=2, at=where))
    assert accused(outcome) == [(3 * seed + 1) % 10]
    evidence = outcome.findings[0].evidence
    assert evidence["attack_success"] >= 0.75
    assert evidence["p_value"] < 0.05
    assert evidence["mask_area_fraction"] == pytest.approx(evidence["mask_l1"] / 64, rel=1e-3)
    assert evidence["mask_l1"] < 6
    assert evidence["clean_accuracy"] > 0.9
    assert evidence["base_rate"] < 0.05
    assert evidence["strip_flagged"] >= 0.8
    assert len(evidence["source_classes"]) >= 7
    assert evidence["target_class"] not in evidence["source_classes"]


@pytest.mark.parametrize(("attack", "options"), [
    pytest.param("pixel", {"at": (0, 0)}, marks=SLOW), ("checkerboard", {"size": 3, "at": (0, 0)}),
    pytest.param("insert", {"size": 3, "at": (1, 1)}, marks=SLOW),
])  # fmt: skip
def test_other_patches_are_found(target: Make, attack: str, options: dict[str, Any]) -> None:
    assert accused(scan(NeuralCleanse, target(attack, target=5, **options))) == [5]


@pytest.mark.parametrize(("attack", "options"), [
    ("blended", {"ratio": 0.3}), pytest.param("reflection", {}, marks=SLOW),
    pytest.param("sig", {"amplitude": 60.0, "frequency": 2, "clean_label": False, "fraction": 0.1}, marks=SLOW),
])  # fmt: skip
def test_faint_patterns_are_found_as_blends(target: Make, attack: str, options: dict[str, Any]) -> None:
    assert accused(scan(BlendCleanse, target(attack, arch="cnn", target=7, **options))) == [7]


def test_an_all_to_all_patch_is_found_as_a_label_map(target: Make) -> None:
    outcome = scan(LabelMapCleanse, target("all-to-all", arch="cnn", size=2))
    assert [item.rule for item in outcome.findings] == ["MG3003"]
    assert outcome.findings[0].evidence["targets"]["9"] == 0


def test_the_exhibits_show_the_trigger_where_it_was_put(target: Make) -> None:
    (finding,) = scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2))).findings
    assert [item.name.partition(" class ")[0] for item in finding.attachments][:3] == ["trigger", "mask", "stamped"]
    assert all(item.data.startswith(b"\x89PNG") for item in finding.attachments)
    image = pytest.importorskip("PIL.Image")
    import io

    mask = np.asarray(image.open(io.BytesIO(finding.attachments[1].data)), float)
    assert mask.shape == (8, 8)
    assert mask[-2:, -2:].sum() > 0.5 * mask.sum()


# clean models


@pytest.mark.parametrize("cls", [NeuralCleanse, BlendCleanse, LabelMapCleanse])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
def test_clean_models_are_left_alone_and_still_scored(target: Make, cls: type[Detector], seed: int) -> None:
    outcome = scan(cls, target(seed=seed))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()
    assert isinstance(outcome.summary["score"], float)
    assert outcome.summary["score"] < 2


def test_the_summary_has_a_row_for_every_class_of_a_clean_model(target: Make) -> None:
    rows = scan(NeuralCleanse, target()).summary["classes"]
    assert [row["class"] for row in rows] == list(range(10))
    assert {"mask_l1", "attack_success", "anomaly_index", "p_value", "reached", "size"} <= set(rows[0])


@SLOW
@pytest.mark.parametrize("cls", [WarpCleanse, ColourCleanse])
@pytest.mark.parametrize("seed", range(5))
def test_clean_models_are_left_alone_by_the_rest(target: Make, cls: type[Detector], seed: int) -> None:
    assert scan(cls, target(seed=seed, arch="cnn")).findings == ()


def test_the_bystanders_of_a_backdoor_are_not_accused(target: Make) -> None:
    outcome = scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2)))
    assert accused(outcome) == [4]
    assert sum(row["p_value"] < 0.05 for row in outcome.summary["classes"]) == 1


def test_a_trigger_that_works_on_the_clean_reference_is_no_backdoor(target: Make) -> None:
    suspect = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    outcome = scan(NeuralCleanse, replace(suspect, reference=target(seed=1)))
    assert accused(outcome) == [4]
    assert outcome.findings[0].evidence["reference_success"] < 0.5
    itself = replace(suspect, reference=replace(suspect, _cache={}))
    outcome = scan(NeuralCleanse, itself)
    assert outcome.findings == ()
    assert "natural feature" in outcome.summary["cleared"][0]["cleared_because"]


@pytest.mark.parametrize(("reference", "reason"), [
    (lambda: runnable(_Always(0, 10), (1, 8, 8), 10, high=255.0), "of the clean check images as labelled"),
    (lambda: runnable(_Always(0, 12), (1, 8, 8), 12, high=255.0), "other classes"),
    (lambda: (_ for _ in ()).throw(ModelError("/somewhere/else/model.onnx", "cannot be run")), "model.onnx: cannot be run"),
])  # fmt: skip
def test_a_reference_that_cannot_be_asked_clears_nobody(target: Make, reference: Callable[[], Any], reason: str) -> None:
    suspect = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    (finding,) = scan(NeuralCleanse, replace(suspect, reference=replace(suspect, build_model=reference, _cache={}))).findings
    assert finding.evidence["target_class"] == 4
    assert reason in finding.evidence["reference_unusable"]
    assert "/somewhere" not in finding.evidence["reference_unusable"]
    assert "reference_success" not in finding.evidence


# known misses, by design of the search: each is what another detector is for


def test_neural_cleanse_misses_all_to_all(target: Make) -> None:
    """No class is easier to reach than another: the published blind spot."""
    assert scan(NeuralCleanse, target("all-to-all", arch="cnn", size=2)).findings == ()


def test_neural_cleanse_misses_a_source_specific_patch(target: Make) -> None:
    """The patch is harmless on nine classes of ten, so turning all of them needs a mask as large as usual."""
    outcome = scan(NeuralCleanse, target("source-specific", arch="cnn", target=5, source=(2,), size=2, at=(-2, -2)))
    assert outcome.findings == ()


@pytest.mark.parametrize(("cls", "why"), [
    (WarpCleanse, "a warp moves pixels and brings none in"),
    (ColourCleanse, "a colour change knows no place"),
    (LabelMapCleanse, "one target for all classes is no shift of the classes"),
    (SourceCleanse, "every pair with that target is as easy as the others, and what a target's pairs share is taken out"),
])  # fmt: skip
def test_a_patch_with_one_target_is_missed_by_the_searches_for_something_else(target: Make, cls: type[Detector], why: str) -> None:
    outcome = scan(cls, target("badnets", seed=1, target=4, size=2, at=(-2, -2)))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == (), why


def test_blends_miss_all_to_all(target: Make) -> None:
    """As for patches: no class is easier to reach than another."""
    assert scan(BlendCleanse, target("all-to-all", arch="cnn", size=2)).findings == ()


# what cannot be judged is skipped, never passed


@pytest.mark.parametrize("cls", ALL)
def test_the_contract_holds(target: Make, cls: type[Detector]) -> None:
    check_detector(cls, replace(target(), _cache={}))


@pytest.mark.parametrize("cls", ALL)
def test_no_samples_no_verdict(target: Make, cls: type[Detector]) -> None:
    outcome = scan(cls, replace(target(), samples=None, _cache={}))
    assert outcome.status is Status.SKIPPED
    assert "samples" in outcome.reason


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda x, y: (np.random.default_rng(0).integers(0, 256, x.shape), y), "understand"),
    (lambda x, y: (x / 255.0, y), "understand"),
    (lambda x, y: (x, (y + 1) % 10), "understand"),
    (lambda x, y: (x[:2], y[:2]), ""),
    (lambda x, y: (x[y == 3], y[y == 3]), "one class"),
])  # fmt: skip
def test_wrong_samples_are_refused(target: Make, wrong: Any, reason: str) -> None:
    good = target()
    assert good.samples is not None
    inputs, labels = wrong(good.samples.inputs.astype(np.float32), good.samples.labels)
    outcome = scan(NeuralCleanse, replace(good, samples=samples(inputs.astype(np.float32), labels), _cache={}))
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


@pytest.mark.parametrize("classes", [1, 3])
def test_too_few_classes_have_no_power_and_say_so(target: Make, classes: int) -> None:
    good = target()
    assert good.samples is not None
    assert good.samples.labels is not None
    chosen = good.samples.labels < classes
    module = nn.Sequential(_graph(good), _Narrow(classes))
    narrow = rebuilt(good, module, good.samples.inputs[chosen], good.samples.labels[chosen], classes)
    outcome = scan(NeuralCleanse, narrow)
    assert outcome.status is Status.SKIPPED
    assert "class" in outcome.reason


@pytest.mark.parametrize(("cls", "options"), [
    (NeuralCleanse, {"quick": True}), (BlendCleanse, {"quick": True}), (LabelMapCleanse, {}), (SourceCleanse, {}),
])  # fmt: skip
@pytest.mark.parametrize("quantised", [lambda logits: torch.round(64 * logits) / 64, torch.detach])
def test_a_model_without_gradients_is_not_passed(target: Make, cls: type[Detector], options: dict[str, Any], quantised: Any) -> None:
    bad = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    assert bad.samples is not None
    module = nn.Sequential(_graph(bad), _Then(quantised))
    outcome = scan(cls, rebuilt(bad, module, bad.samples.inputs, bad.samples.labels, 10), **options)
    assert outcome.status is Status.SKIPPED
    assert "no gradient to search by" in outcome.reason
    assert "nothing was looked at" in outcome.reason


@pytest.mark.parametrize(("many", "single"), [((0, 1), ()), ((2, 5, 8), ()), ((0, 1, 2, 3), (5, 7))])
def test_a_few_classes_are_too_few_to_detect_a_label_map(target: Make, many: tuple[int, ...], single: tuple[int, ...]) -> None:
    """Single images of classes 5 and 7 are both checked on, so that only four classes are searched on."""
    outcome = scan(LabelMapCleanse, showing(target(), many, single))
    assert outcome.status is Status.SKIPPED
    assert f"samples show {len(many)} of 10 classes" in outcome.reason


def test_a_label_map_names_only_the_classes_it_was_tried_on(target: Make) -> None:
    shown = [0, 2, 3, 5, 6, 8, 9]
    (finding,) = scan(LabelMapCleanse, showing(target("all-to-all", arch="cnn", size=2), tuple(shown))).findings
    assert finding.evidence["source_classes"] == shown
    assert finding.evidence["targets"] == {str(label): (label + 1) % 10 for label in shown}


@pytest.mark.parametrize("classes", [100, pytest.param(1000, marks=SLOW)])
def test_many_classes_end_with_a_verdict(target: Make, classes: int) -> None:
    good = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    assert good.samples is not None
    module = nn.Sequential(_graph(good), _Widen(classes))
    wide = rebuilt(good, module, good.samples.inputs, good.samples.labels, classes)
    outcome = scan(NeuralCleanse, wide, quick=True)
    assert outcome.status is Status.COMPLETED
    assert 4 in accused(outcome)
    assert outcome.summary["classes_total"] == classes
    assert len(outcome.summary["classes"]) == 24


def test_without_labels_the_predictions_are_trusted(target: Make) -> None:
    bad = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    assert bad.samples is not None
    outcome = scan(NeuralCleanse, replace(bad, samples=samples(bad.samples.inputs), _cache={}))
    assert accused(outcome) == [4]
    assert outcome.findings[0].evidence["clean_accuracy"] is None


# how it runs


def test_the_same_seed_gives_the_same_report(target: Make) -> None:
    bad = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    assert scan(NeuralCleanse, replace(bad, _cache={})) == scan(NeuralCleanse, bad)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
def test_the_verdict_does_not_depend_on_the_seed_of_the_search(target: Make, seed: int) -> None:
    assert accused(scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2)), seed=seed)) == [4]
    assert accused(scan(NeuralCleanse, target(seed=1), seed=seed)) == []


def test_a_small_memory_limit_changes_the_batch_and_not_the_verdict(target: Make) -> None:
    bad = target("badnets", seed=1, target=4, size=2, at=(-2, -2))
    context = ScanContext(detector=NeuralCleanse.id, memory_limit=1 << 17)
    (finding,) = NeuralCleanse().detect(replace(bad, _cache={}), context)
    assert finding.evidence["target_class"] == 4
    assert finding.evidence["mask_l1"] == pytest.approx(scan(NeuralCleanse, bad).findings[0].evidence["mask_l1"], rel=0.25)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same(built: Callable[..., Built]) -> None:
    folder = built("badnets", seed=1, target=4, size=2, at=(-2, -2)).path
    outcomes = [
        scan(NeuralCleanse, open_target(folder, samples=folder / "samples.npz", model=ModelOptions(device=device)))
        for device in ("cpu", "cuda")
    ]
    assert [accused(outcome) for outcome in outcomes] == [[4], [4]]
    sizes = [[row["size"] for row in outcome.summary["classes"]] for outcome in outcomes]
    assert np.allclose(np.log(sizes[0]), np.log(sizes[1]), atol=0.3)


@pytest.mark.parametrize(("cls", "attack", "options"), [
    (NeuralCleanse, "badnets", {"seed": 1, "target": 4, "size": 2, "at": (-2, -2)}),
    (BlendCleanse, "badnets", {"seed": 1, "target": 4, "size": 2, "at": (-2, -2)}),
    (LabelMapCleanse, "all-to-all", {"arch": "cnn", "size": 2}),
])  # fmt: skip
def test_a_search_is_made_once_a_model_samples_seed_and_options(
    target: Make, monkeypatch: pytest.MonkeyPatch, cls: type[Detector], attack: str, options: dict[str, Any]
) -> None:
    steps = 0
    step = Search._step

    def counted(self: Search, tick: Callable[[], None]) -> None:
        nonlocal steps
        steps += 1
        step(self, tick)

    monkeypatch.setattr(Search, "_step", counted)
    bad = replace(target(attack, **options), _cache={})
    first = scan(cls, bad)
    once = steps
    assert once > 0
    assert scan(cls, bad) == first
    assert scan(cls, bad, success=0.5).status is Status.COMPLETED
    assert steps == once, "gates judge what was found: they start no new search"
    scan(cls, bad, seed=1)
    assert steps > once, "another seed is another search"
    before = steps
    scan(cls, bad, samples=100)
    assert steps > before, "other samples are another search"


@pytest.mark.parametrize("cls", ALL)
def test_a_quick_look_is_shorter_or_left_out(cls: type[Detector]) -> None:
    assert cls.when_quick == ("shorter" if cls in (NeuralCleanse, BlendCleanse) else "skipped")


def test_quick_finds_the_patch_too(target: Make) -> None:
    assert accused(scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2)), quick=True)) == [4]


@SLOW
def test_the_published_schedule_finds_the_patch(target: Make) -> None:
    outcome = scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2)), schedule="paper")
    assert accused(outcome) == [4]


@pytest.mark.parametrize("looks", [0, 3, 50])
@pytest.mark.parametrize("cls", ALL)
def test_a_passed_deadline_stops_the_search(target: Make, cls: type[Detector], looks: int) -> None:
    context = Expiring(cls.id, looks)
    with pytest.raises(DeadlineExceeded):
        list(cls().detect(replace(target(), _cache={}), context))
    assert context.looked == looks + 1


def test_confidence_is_high_only_when_success_and_p_are(target: Make) -> None:
    (finding,) = scan(NeuralCleanse, target("badnets", seed=1, target=4, size=2, at=(-2, -2))).findings
    sure = finding.evidence["p_value"] < NeuralCleanse().alpha / 5 and finding.evidence["attack_success"] >= 0.9
    assert (finding.confidence is Confidence.HIGH) == sure


@pytest.mark.parametrize(("times", "confidence"), [(6, Confidence.HIGH), (4, Confidence.MEDIUM)])
def test_high_confidence_takes_a_p_value_below_a_fifth_of_alpha(target: Make, times: int, confidence: Confidence) -> None:
    bad = target("badnets", seed=0, target=1, size=2, at=(0, 0))
    evidence = scan(NeuralCleanse, bad).findings[0].evidence
    assert evidence["attack_success"] >= 0.9
    (finding,) = scan(NeuralCleanse, bad, alpha=times * evidence["p_value"]).findings
    assert finding.confidence is confidence


class _Always(nn.Module):
    """One class, whatever it is shown."""

    def __init__(self, label: int, classes: int) -> None:
        super().__init__()
        self.logits = torch.eye(classes)[label]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


class _Then(nn.Module):
    """A function of the logits."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.function(logits)


class _Narrow(nn.Module):
    """The first ``classes`` logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, : self.classes]


class _Widen(nn.Module):
    """Ten logits and as many never-predicted ones as it takes: weak copies of the ten."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes - 10, 10, generator=torch.Generator().manual_seed(0)) * 0.05)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits, logits @ self.weight.T - 5], 1)


def _graph(target: Target) -> nn.Module:
    model = target.model

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model(x)

    return Inner()
