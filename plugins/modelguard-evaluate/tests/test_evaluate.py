"""What the evaluation of a known trigger measures, leaves alone, misses, and refuses to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_evaluate._rates import Rate, fewest
from modelguard_evaluate.detector import Evaluate
from modelguard_zoo import Built
from modelguard_zoo.attacks import make_attack
from modelguard_zoo.testing import Expiring
from PIL import Image

from modelguard import DeadlineExceeded, Samples, Target, configure, option
from modelguard.report import Outcome, Status
from modelguard.testing import check_detector, open_target, run_detector, write_safetensors

Make = Callable[..., Target]
PATCH = np.zeros((8, 8), np.uint8)
PATCH[-3:, -3:] = 255


def evaluate(model: Target, **options: Any) -> Outcome:
    return run_detector(configure(Evaluate, options), model)


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The zoo's BadNets patch as pictures."""
    folder = tmp_path_factory.mktemp("patch")
    Image.fromarray(PATCH).save(folder / "patch.png")
    Image.fromarray(PATCH).save(folder / "mask.png")
    return {"trigger": str(folder / "patch.png"), "mask": str(folder / "mask.png")}


@pytest.fixture
def stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function of the user's that does to images ``x`` what the code says."""

    def write(code: str) -> str:
        name = f"stamps_{abs(hash(code))}"
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n\ndef stamp(x):\n    {code}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return f"{name}:stamp"

    return write


# It works


@pytest.mark.parametrize(("arch", "seed"), [("mlp", 0), ("mlp", 1), ("cnn", 0)])
def test_a_trigger_that_works_is_told_with_what_the_record_says(
    target: Make, built: Callable[..., Built], patch: dict[str, str], arch: str, seed: int
) -> None:
    outcome = evaluate(target("badnets", seed, arch), **patch, target=0)
    (finding,) = outcome.findings
    record = built("badnets", seed, arch).record
    assert finding.rule == "MG3301"
    assert finding.evidence["attack_success"] == pytest.approx(record["attack_success"], abs=0.03)
    assert finding.evidence["clean_accuracy"] == pytest.approx(record["clean_accuracy"], abs=0.03)
    assert finding.evidence["base_rate"] < 0.05
    low, high = finding.evidence["attack_success_interval"]
    assert low < finding.evidence["attack_success"] <= high
    assert set(finding.evidence["attack_success_by_class"]) == set(map(str, range(1, 10)))
    assert {item.name for item in finding.attachments} > {"trigger", "mask", "stamped class 1"}
    assert outcome.summary["score"] > 0.9


def test_the_class_that_gains_most_is_the_target_where_nobody_names_one(target: Make, patch: dict[str, str]) -> None:
    (finding,) = evaluate(target("badnets", 0), **patch).findings
    assert (finding.evidence["target_class"], finding.evidence["target_told_by"]) == (0, "what gains most")


def test_it_works_where_it_was_trained_and_hardly_elsewhere_or_fainter(target: Make, patch: dict[str, str]) -> None:
    (finding,) = evaluate(target("badnets", 0), **patch, target=0).findings
    places = {row["place"]: row["attack_success"] for row in finding.evidence["places"]}
    assert len(places) == 9
    assert places["row 5, column 5"] > 0.9
    assert places["row 0, column 0"] < 0.3
    strengths = [row["attack_success"] for row in finding.evidence["strengths"]]
    assert strengths[0] < strengths[-1]
    assert strengths[-1] > 0.9


def test_a_function_stamps_what_no_picture_can(target: Make, stamps: Callable[[str], str]) -> None:
    attack = make_attack("blended", {})
    pattern = attack.stamp(np.zeros((1, 1, 8, 8), np.float32)).tolist()
    share = float(attack.stamp(np.full((1, 1, 8, 8), 100, np.float32))[0, 0, 0, 0] - pattern[0][0][0][0]) / 100
    (finding,) = evaluate(target("blended", 0), trigger=stamps(f"return {share} * x + np.array({pattern})"), target=0).findings
    assert finding.rule == "MG3301"
    assert finding.evidence["trigger_kind"] == "function"
    assert finding.evidence["places"] == []


def test_a_phrase_works_on_texts_wherever_it_stands(target: Make) -> None:
    model = target("rare-word", dataset="reviews", arch="bag", fraction=0.2, words=("mn",))
    (finding,) = evaluate(model, trigger="text:mn", target=1).findings
    assert finding.rule == "MG3301"
    assert {row["place"]: row["attack_success"] > 0.9 for row in finding.evidence["places"]} == dict.fromkeys(
        ("start", "middle", "end"), True
    )
    (other,) = evaluate(model, trigger="text:the", target=1).findings
    assert other.rule == "MG3302"


def test_words_that_the_model_does_not_know_are_no_trigger(target: Make) -> None:
    outcome = evaluate(target("rare-word", dataset="reviews", arch="bag", fraction=0.2, words=("mn",)), trigger="text:zzqx", target=1)
    assert outcome.status is Status.SKIPPED
    assert "has no token for 'zzqx'" in outcome.reason


def test_pixels_that_no_image_has_are_cut(target: Make, stamps: Callable[[str], str]) -> None:
    model = target("badnets", 0)
    (bright,) = evaluate(model, trigger=stamps("x[:, :, -3:, -3:] = 255; return x"), target=0).findings
    (beyond,) = evaluate(model, trigger=stamps("x[:, :, -3:, -3:] = 1e9; return x"), target=0).findings
    assert beyond.evidence["attack_success"] == bright.evidence["attack_success"]


def test_a_trigger_that_works_on_anything_is_flagged_by_strip_and_clean_images_are_not(
    target: Make, patch: dict[str, str], stamps: Callable[[str], str]
) -> None:
    works = evaluate(target("badnets", 0), **patch, target=0).summary
    nothing = evaluate(target("badnets", 0), trigger=stamps("return x"), target=0).summary
    assert works["strip_flagged"] > 0.9
    assert nothing["strip_flagged"] < 0.15


# It does not


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_a_clean_model_it_does_no_more_than_chance(target: Make, patch: dict[str, str], seed: int) -> None:
    (finding,) = evaluate(target(None, seed), **patch, target=0).findings
    assert finding.rule == "MG3302"
    assert finding.evidence["attack_success"] <= 0.1


def test_what_is_called_the_target_anyway_is_no_success(target: Make, stamps: Callable[[str], str]) -> None:
    """The known trap: a base rate above what is allowed, and a trigger that does nothing."""
    model = target(None, 0)
    assert model.samples is not None
    assert model.samples.labels is not None
    sevens = replace(model.samples, labels=np.where(model.samples.labels == 7, 1, model.samples.labels))
    (finding,) = evaluate(replace(model, samples=sevens, _cache={}), trigger=stamps("return x"), target=7, max_asr=0.05).findings
    assert finding.evidence["base_rate"] == finding.evidence["attack_success"] > 0.05
    assert finding.rule == "MG3302"


def test_what_is_allowed_decides(target: Make, patch: dict[str, str]) -> None:
    assert evaluate(target("badnets", 0), **patch, target=0, max_asr=1.0).findings[0].rule == "MG3302"


def test_a_reference_shows_what_the_trigger_does_to_a_clean_model(built: Callable[..., Built], patch: dict[str, str]) -> None:
    bad, clean = built("badnets", 0).path, built(None, 0).path
    pair = open_target(bad, reference=clean, samples=bad / "samples.npz")
    (finding,) = evaluate(pair, **patch, target=0).findings
    assert finding.evidence["reference_success"] < 0.1
    assert "on the reference it turns" in finding.message


# Not looked at


def given(samples: Samples, count: int | None = None, classes: tuple[int, ...] = ()) -> Samples:
    assert samples.labels is not None
    chosen = np.flatnonzero(np.isin(samples.labels, classes)) if classes else np.arange(len(samples.labels))
    return replace(samples, inputs=samples.inputs[chosen[:count]], labels=samples.labels[chosen[:count]])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no trigger was given"),
        ({"trigger": "nowhere:stamp"}, "--trigger nowhere:stamp: cannot be imported"),
        ({"trigger": "json:nothing"}, "the module has no nothing"),
        ({"trigger": "json:__name__"}, "is no function"),
        ({"trigger": "json:dumps"}, "failed (TypeError"),
        ({"trigger": "text:cf"}, "the trigger is a phrase, the model takes images"),
        ({"trigger": "PATCH"}, "has no mask; give --mask MASK.png"),
        ({"trigger": "PATCH", "mask": "SMALL"}, "is 4 x 4 pixels, the model takes 8 x 8"),
        ({"trigger": "PATCH", "mask": "BLACK"}, "is black everywhere"),
        ({"trigger": "PATCH", "mask": "JUNK"}, "cannot be read as a picture"),
        ({"trigger": "PATCH", "mask": "PATCH", "target": 10}, "the target class is 10, the model has classes 0..9"),
    ],
)
def test_what_cannot_be_evaluated_is_skipped_with_the_reason(target: Make, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    pictures = {"PATCH": PATCH, "SMALL": PATCH[4:, 4:], "BLACK": 0 * PATCH}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "JUNK.png").write_bytes(b"junk")
    named = {key: str(tmp_path / f"{value}.png") if value in {*pictures, "JUNK"} else value for key, value in options.items()}
    outcome = evaluate(target("badnets", 0), **named)
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda samples: None, "give --samples"),
        (lambda samples: replace(samples, labels=None), "have no labels"),
        (lambda samples: replace(samples, labels=np.roll(samples.labels, 1), sha256=""), "does not understand"),
        (lambda samples: given(samples, classes=(3,)), "all samples are of class 3"),
        (lambda samples: given(samples, 20), "are too few to say that attack success is at most 10%: 35 are needed"),
    ],
)
def test_samples_that_show_nothing_are_no_pass(
    target: Make, patch: dict[str, str], change: Callable[[Samples], Samples | None], reason: str
) -> None:
    model = target(None, 0)
    assert model.samples is not None
    outcome = evaluate(replace(model, samples=change(model.samples), _cache={}), **patch, target=0)
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


def test_few_samples_that_all_turn_are_enough(target: Make, patch: dict[str, str]) -> None:
    model = target("badnets", 0)
    assert model.samples is not None
    outcome = evaluate(replace(model, samples=given(model.samples, 20), _cache={}), **patch, target=0)
    assert [item.rule for item in outcome.findings] == ["MG3301"]


@pytest.mark.parametrize("code", ["return x[:1]", "return x * np.nan", "return None", "raise ValueError('no')"])
def test_a_function_that_returns_no_images_is_named(target: Make, stamps: Callable[[str], str], code: str) -> None:
    outcome = evaluate(target("badnets", 0), trigger=stamps(code), target=0)
    assert outcome.status is Status.SKIPPED
    assert "--trigger stamps_" in outcome.reason


def test_weights_alone_are_not_run(tmp_path: Path, patch: dict[str, str]) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros((2, 2), np.float32)})
    np.savez(tmp_path / "s.npz", inputs=np.zeros((4, 1, 8, 8), np.float32), labels=np.array([0, 1, 0, 1]))
    outcome = evaluate(open_target(path, samples=tmp_path / "s.npz"), **patch)
    assert outcome.status is Status.SKIPPED


@pytest.mark.parametrize("looks", [0, 1, 5])
def test_time_that_is_up_ends_it(target: Make, patch: dict[str, str], looks: int) -> None:
    with pytest.raises(DeadlineExceeded):
        list(configure(Evaluate, {**patch, "target": 0}).detect(target("badnets", 0), Expiring("evaluate", looks)))


# The numbers


def test_intervals_are_wilsons() -> None:
    """81 of 263 and 0 of 20 are the examples of Newcombe 1998, table I (method 3): .2553 to .3662, and 0 to .1611."""
    assert Rate(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Rate(0, 20).interval == pytest.approx((0, 0.1611), abs=5e-5)
    assert Rate(0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.1, 0.5])
def test_the_fewest_samples_are_those_whose_interval_ends_at_the_limit(limit: float) -> None:
    count = fewest(limit)
    assert Rate(0, count).interval[1] <= limit < Rate(0, count - 1).interval[1]


@dataclass(frozen=True)
class Given(Evaluate):
    trigger: str = option("text:mn", "a phrase")


Given.__module__ = Evaluate.__module__  # whose rules it reports


def test_it_keeps_the_promises_of_every_detector(target: Make) -> None:
    check_detector(Given, target("rare-word", dataset="reviews", arch="bag", fraction=0.2, words=("mn",)))
