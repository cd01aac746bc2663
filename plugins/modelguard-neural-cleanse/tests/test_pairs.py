"""Source-specific triggers: what neural-cleanse-pairs finds, leaves alone, misses, and refuses to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from modelguard_neural_cleanse import _pair_windows as pair_windows
from modelguard_neural_cleanse import _pairs as pairs
from modelguard_neural_cleanse._pair_windows import PairWindows, search_pairs
from modelguard_neural_cleanse._pairs import asymmetric_residual
from modelguard_neural_cleanse.detectors import SourceCleanse
from modelguard_triggers.case import Case
from modelguard_triggers.plan import Stage
from torch import Tensor

from modelguard import Samples, ScanContext, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow
PLANTED = ((2, 5, (-2, -2)), (6, 1, (0, -2)), (8, 7, (0, 0)), (4, 3, (-2, 0)), (0, 9, (3, 0)))
"""Source, target and corner of the trigger, one a seed."""


def scan(target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(SourceCleanse, options), target, seed=seed)


def accused(outcome: Outcome) -> list[tuple[list[int], int]]:
    return [(item.evidence["source_classes"], item.evidence["target_class"]) for item in outcome.findings]


def planted(target: Make, seed: int, arch: str = "cnn") -> Target:
    source, klass, at = PLANTED[seed]
    return target("source-specific", seed=seed, arch=arch, target=klass, source=(source,), size=2, at=at)


def in_full(target: Target) -> Mapping[str, Any]:
    """The summary of the full search, whatever the screen says."""
    return SourceCleanse().look(target, ScanContext(detector=SourceCleanse.id), Stage.FULL).summary


def showing(original: Target, many: tuple[int, ...], single: tuple[int, ...] = ()) -> Target:
    """``original`` with its samples of the classes ``many``, and with one of each in ``single`` that the model classifies as labelled."""
    given = original.samples
    assert given is not None
    assert given.labels is not None
    right = original.model.predict(original.model.inputs(given).numpy()).argmax(1) == given.labels
    ones = [np.flatnonzero(right & (given.labels == label))[:1] for label in single]
    chosen = np.concatenate([np.flatnonzero(np.isin(given.labels, many)), *ones])
    return replace(original, samples=Samples(given.inputs[chosen], given.labels[chosen], "test", "0" * 64), _cache={})


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
def test_the_pair_is_found_with_the_place_of_its_trigger(target: Make, seed: int) -> None:
    source, klass, (row, column) = PLANTED[seed]
    outcome = scan(planted(target, seed))
    assert accused(outcome) == [([source], klass)]
    evidence = outcome.findings[0].evidence
    assert outcome.findings[0].rule == "MG3002"
    assert evidence["attack_success"] >= 0.9
    assert evidence["others_kept"] >= 0.9
    assert (abs(evidence["row"] - row % 8), abs(evidence["column"] - column % 8)) <= (1, 1)
    assert [item.name for item in outcome.findings[0].attachments][:2] == ["trigger", "mask"]
    assert outcome.summary["score"] > 1.3


@SLOW
@pytest.mark.parametrize("seed", [1, 2])
def test_the_verdict_does_not_depend_on_the_seed_of_the_search(target: Make, seed: int) -> None:
    source, klass, _ = PLANTED[2]
    assert accused(scan(planted(target, 2), seed=seed)) == [([source], klass)]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=SLOW) for seed in (2, 3, 4))])
@pytest.mark.parametrize("arch", ["mlp", pytest.param("cnn", marks=SLOW)])
def test_clean_models_are_left_alone_and_still_scored(target: Make, arch: str, seed: int) -> None:
    outcome = scan(target(seed=seed, arch=arch))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()
    assert outcome.summary["score"] < 1.6
    assert outcome.summary["pairs_searched"] == outcome.summary["pairs_total"] == 90
    assert outcome.summary["schedule"] == "full"


def test_a_pair_that_resembles_another_is_cleared_because_its_window_disturbs_other_classes(target: Make) -> None:
    """A stroke that makes a 5 of every 9 is as easy as a trigger, and no trigger: other digits suffer from it."""
    outcome = scan(target(seed=0), alpha=1.0)
    (row,) = [item for item in outcome.summary["cleared"] if (item["source_classes"], item["target_class"]) == ([9], 5)]
    assert row["attack_success"] >= 0.9
    assert "disturbs" in row["cleared_because"]


def test_a_known_miss_is_ranked_first_all_the_same(target: Make) -> None:
    """In a dense network many pairs have a window nearly as good, and the true one does not stand out."""
    source, klass, _ = PLANTED[3]
    suspect = planted(target, 3, "mlp")
    first = in_full(suspect)["pairs"][0]
    assert (first["source"], first["target"]) == (source, klass)
    assert scan(suspect).findings == ()


@SLOW
def test_a_pair_at_the_edge_of_the_level_is_ranked_first_whatever_the_machine_rounds(target: Make) -> None:
    """Trained on one machine the model comes to p < .05, on another to .055: accused or not, the pair is the first."""
    source, klass, _ = PLANTED[1]
    suspect = planted(target, 1)
    first = in_full(suspect)["pairs"][0]
    assert (first["source"], first["target"]) == (source, klass)
    assert first["p_value"] < 0.1
    assert accused(scan(suspect)) in ([], [([source], klass)])


def test_a_trigger_with_one_target_for_all_sources_is_another_search_s(target: Make) -> None:
    """Every pair with that target is as easy as the others, and what a target's pairs share is taken out."""
    assert scan(target("badnets", seed=1, target=4, size=2, at=(-2, -2))).findings == ()


def test_a_trigger_that_works_on_the_clean_reference_is_no_backdoor(target: Make) -> None:
    suspect = planted(target, 0)
    (finding,) = scan(replace(suspect, reference=target(seed=0, arch="cnn"))).findings
    assert finding.evidence["reference_success"] < 0.5
    outcome = scan(replace(suspect, reference=replace(suspect, _cache={})))
    assert outcome.findings == ()
    assert "natural feature" in outcome.summary["cleared"][0]["cleared_because"]


def test_the_search_is_made_once_a_model_samples_and_seed(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def counted(case: Case, chosen: Tensor, stage: Stage) -> PairWindows:
        searches.append(chosen)
        return search_pairs(case, chosen, stage)

    monkeypatch.setattr(pairs, "search_pairs", counted)
    clean = replace(target(), _cache={})
    assert scan(clean) == scan(clean)
    scan(clean, success=0.99)
    once = len(searches)
    assert once in (1, 2), "the screen, and the full search if that decides nothing; gates judge what was found: they start no new search"
    scan(clean, seed=1)
    scan(clean, samples=200)
    assert len(searches) >= once + 2


def test_what_would_cost_too_much_is_searched_for_the_likeliest_targets_and_said(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_windows, "BUDGET", 33_000)
    summary = scan(replace(target(), _cache={})).summary
    assert (summary["pairs_searched"], summary["pairs_total"], summary["schedule"]) == (30, 90, "short")
    assert summary["sources_searched"] == list(range(10))


def test_the_budget_holds_all_pairs_of_ten_classes_whatever_the_size() -> None:
    assert all(pair_windows.affordable(size, size) >= 90 for size in (8, 16, 28, 32, 64, 224))


def test_sources_left_out_are_said(target: Make) -> None:
    outcome = scan(showing(target(), (0, 1, 2, 4, 5, 7), (8,)))
    assert outcome.status is Status.COMPLETED
    assert outcome.summary["sources_searched"] == [0, 1, 2, 4, 5, 7]
    assert outcome.summary["sources_not_searched"] == [3, 6, 8, 9]


def test_fewer_than_half_of_the_classes_are_no_verdict(target: Make) -> None:
    outcome = scan(showing(target(), (0, 1, 2, 4)))
    assert outcome.status is Status.SKIPPED
    assert "4 of 10 classes" in outcome.reason


def test_easy_targets_and_fragile_sources_are_taken_out_and_one_way_streets_are_not() -> None:
    classes = 8
    every = np.array([(s, t) for s in range(classes) for t in range(classes) if s != t])
    natural = -2.0 * (every[:, 0] == 0) - 1.0 * (every[:, 1] == 3)
    assert np.allclose(asymmetric_residual(every, natural, classes), 0)
    there, back = (every == (1, 2)).all(1), (every == (2, 1)).all(1)
    one_way = asymmetric_residual(every, natural - 3.0 * there, classes)
    both_ways = asymmetric_residual(every, natural - 3.0 * (there | back), classes)
    assert one_way[there] == 2 * both_ways[there] == -6
