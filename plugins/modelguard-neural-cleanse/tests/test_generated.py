"""Triggers that a network makes for each image: found, left alone, missed, and not looked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_neural_cleanse._generator import LADDER, Generator, changed, natural_distance
from modelguard_neural_cleanse._levels import LEVELS, REFERENCE_ODDS, beside, family
from modelguard_neural_cleanse.detectors import GeneratorInversion
from modelguard_runtime.testing import runnable
from modelguard_zoo import Built
from modelguard_zoo.testing import Expiring
from torch import nn

from modelguard import DeadlineExceeded, Samples, Target
from modelguard.report import Status
from modelguard.testing.checkpoints import open_target
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow
STEPS = {"eps": 0.2, "steps": 200, "settle": 400}
FAMILIES = {"convolutional": ("cnn", "vgg"), "dense": ("mlp",), "residual": ("resnet8",)}
CHOSEN = {"eps": 0.18, "alpha": 0.75, "steps": 400, "settle": 1000}


@pytest.mark.parametrize("seed", [300, *(pytest.param(seed, marks=SLOW) for seed in (301, 302))])
@pytest.mark.parametrize("attack", ["lira", pytest.param("wasserstein", marks=SLOW)])
def test_a_trigger_made_by_a_network_is_found_with_its_class(target: Make, attack: str, seed: int) -> None:
    wanted = (3 * seed + 1) % 10
    outcome = run_detector(GeneratorInversion(), target(attack, seed, "cnn", target=wanted, **STEPS))
    (finding,) = outcome.findings
    assert (finding.rule, finding.evidence["target_class"]) == ("MG3007", wanted)
    assert min(finding.evidence["ease_by_run"]) >= finding.evidence["accusing_ease"]
    assert [item.name.partition(" class ")[0] for item in finding.attachments][:2] == ["trigger", "stamped"]
    assert outcome.summary["stage"] == "full"


@pytest.mark.parametrize("seed", [300, pytest.param(303, marks=SLOW)])
def test_a_trigger_for_whatever_class_is_wanted_is_one_finding(target: Make, seed: int) -> None:
    outcome = run_detector(GeneratorInversion(), target("marksman", seed, "cnn", target=(3 * seed + 1) % 10, **CHOSEN))
    (finding,) = outcome.findings
    assert (finding.rule, finding.evidence["target_class"]) == ("MG3008", None)
    assert len(finding.evidence["targets"]) >= 5


@pytest.mark.parametrize("seed", [300, 301, *(pytest.param(seed, marks=SLOW) for seed in (302, 303, 304))])
def test_clean_models_are_left_alone_and_still_scored(target: Make, seed: int) -> None:
    outcome = run_detector(GeneratorInversion(), target(seed=seed, arch="cnn"))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()
    assert 0 < outcome.summary["score"] < 1
    rows = outcome.summary["classes"]
    assert [row["class"] for row in rows] == list(range(10))
    assert all(len(row["success"]) == len(LADDER) for row in rows)


def test_a_patch_is_not_what_it_looks_for(target: Make) -> None:
    """A near miss: the trigger is one pattern, small and of full strength. neural-cleanse finds it; here it may stand out and need not."""
    outcome = run_detector(GeneratorInversion(), target("badnets", arch="cnn", target=4, size=2, at=(-2, -2)))
    assert outcome.status is Status.COMPLETED
    assert {item.evidence["target_class"] for item in outcome.findings} <= {4}


def test_without_time_it_says_what_it_did_not_look_at(target: Make) -> None:
    with pytest.raises(DeadlineExceeded):
        list(GeneratorInversion().detect(replace(target(arch="cnn"), _cache={}), Expiring(GeneratorInversion.id, 30)))


def test_it_keeps_the_contract(built: Callable[..., Built]) -> None:
    folder = built(arch="mlp").path
    check_detector(GeneratorInversion, open_target(folder, samples=folder / "samples.npz"))


def test_without_samples_it_is_skipped(built: Callable[..., Built]) -> None:
    outcome = run_detector(GeneratorInversion(), open_target(built(arch="mlp").path))
    assert outcome.status is Status.SKIPPED
    assert "samples" in outcome.reason


def test_the_readme_says_what_was_measured() -> None:
    folder = Path(__file__).parents[1]
    result = json.loads((folder.parents[1] / "benchmarks" / "results" / "generator.json").read_text())
    readme = (folder / "README.md").read_text()
    assert {row.ease for row in LEVELS} == {result["ease"]}
    assert result["reference odds"] == REFERENCE_ODDS
    assert f"at least {result['ease']:g}".replace("0.", ".") in readme
    assert f"{REFERENCE_ODDS:g} times" in readme
    reserved = result["parts"]["reserved"]
    for attack, item in reserved["attacks"].items():
        if item["took"]:
            assert f"| {attack} | {item['took']} of {item['built']} | {item['found']} | {item['named']} |" in readme
    assert f"| clean | {reserved['clean']} | {reserved['alarms']} (" in readme
    # A family is judged only where both clean and backdoored models of it were.
    counts = reserved["architectures"]
    for named in {name for row in LEVELS for name in row.families}:
        own = [counts[arch] for arch in FAMILIES[named] if arch in counts]
        assert sum(item["clean"]["models"] for item in own)
        assert sum(item[attack]["models"] for item in own for attack in ("lira", "wasserstein", "marksman"))


def unlevelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been measured of models like those of the tests, which train in seconds."""
    monkeypatch.setattr("modelguard_neural_cleanse._levels.LEVELS", (replace(LEVELS[0], shape=(3, 32, 32)),))


@pytest.mark.parametrize(("attack", "options"), [(None, {}), ("lira", {"target": 1, **STEPS})])
def test_where_no_level_was_measured_it_cannot_judge_and_says_what_it_needs(
    target: Make, monkeypatch: pytest.MonkeyPatch, attack: str | None, options: dict[str, float]
) -> None:
    unlevelled(monkeypatch)
    outcome = run_detector(GeneratorInversion(), replace(target(attack, 300, "cnn", **options), _cache={}))
    assert (outcome.status, outcome.findings) == (Status.SKIPPED, ())
    assert "give --reference, a clean model of the same architecture" in outcome.reason
    assert len(outcome.summary["classes"]) == 10
    assert "score" not in outcome.summary


def test_beside_a_clean_reference_it_judges_where_no_level_was_measured(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    unlevelled(monkeypatch)
    suspect = replace(target("lira", 300, "cnn", target=1, **STEPS), reference=target(seed=301, arch="cnn"), _cache={})
    (finding,) = run_detector(GeneratorInversion(), suspect).findings
    assert finding.evidence["target_class"] == 1
    assert finding.evidence["reference_ease"] < finding.evidence["accusing_ease"] <= finding.evidence["ease"]
    clean = replace(target(seed=302, arch="cnn"), reference=target(seed=301, arch="cnn"), _cache={})
    outcome = run_detector(GeneratorInversion(), clean)
    assert (outcome.status, outcome.findings) == (Status.COMPLETED, ())


def test_a_reference_of_another_architecture_is_no_help(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    unlevelled(monkeypatch)
    outcome = run_detector(GeneratorInversion(), replace(target(arch="cnn"), reference=target(arch="mlp"), _cache={}))
    assert outcome.status is Status.SKIPPED
    assert "another architecture" in outcome.reason


def test_a_level_of_ones_own_counts_where_none_was_measured(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by an option, by somebody who measured clean models of their own."""
    unlevelled(monkeypatch)
    outcome = run_detector(GeneratorInversion(ease=0.9), replace(target(seed=300, arch="cnn"), _cache={}))
    assert (outcome.status, outcome.summary["accusing_ease"]) == (Status.COMPLETED, 0.9)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("cnn", "convolutional"),
        pytest.param("vgg", "convolutional", marks=SLOW),
        ("mlp", "dense"),
        pytest.param("resnet8", "residual", marks=SLOW),
        ("vit", "transformer"),
    ],
)
def test_networks_are_told_apart_by_their_layers(target: Make, arch: str, name: str) -> None:
    assert family(target(arch=arch).model) == name


def test_beside_a_reference_more_ease_of_it_asks_for_more() -> None:
    assert beside(0.2) < beside(0.5) < beside(0.9) < 1
    assert beside(0.0) == min(row.ease for row in LEVELS)  # a reference that nothing turns does not accuse what hardly anything does
    assert beside(0.5) == pytest.approx(REFERENCE_ODDS / (1 + REFERENCE_ODDS))


class Rounded(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(x)
        return logits.round()


def test_a_model_without_a_gradient_is_skipped(target: Make) -> None:
    original = target(arch="mlp")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model = runnable(Rounded(plain).eval(), (1, 8, 8), 10, high=255.0)
    assert original.samples is not None
    inputs = original.samples.inputs
    labels = model.predict(np.asarray(inputs, np.float32)).argmax(1)
    shown = Samples(inputs, labels.astype(np.int64), "test", "0" * 64)
    outcome = run_detector(GeneratorInversion(), replace(original, samples=shown, build_model=lambda: model, _cache={}))
    assert outcome.status is Status.SKIPPED
    assert "no gradient" in outcome.reason


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (1, 28, 28), (3, 50, 40)])
def test_changes_stay_within_their_room_and_in_range(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, *shape) * 255
    stamped, _ = changed(Generator(shape[0], 10), x, torch.arange(4), 5.0, 0.0, 255.0)
    assert stamped.shape == x.shape
    assert stamped.min() >= 0
    assert stamped.max() <= 255
    assert (stamped - x).square().mean((1, 2, 3)).sqrt().max() <= 5.001


def test_the_distance_between_classes_leaves_out_images_of_the_same_class() -> None:
    images = torch.tensor([0.0, 1.0, 5.0])[:, None, None, None].expand(3, 1, 2, 2)
    assert natural_distance(images, torch.tensor([0, 0, 1])) == pytest.approx(4)  # the nearest of another class: 5, 4 and 4 away
