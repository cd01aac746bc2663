"""Equal bytes under other names: what a loader would take for something else is a change, what it knows is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelguard import Capability, Finding, ScanContext, Severity, diff_checkpoints
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target

Tensors = dict[str, Any]
Rename = Callable[[str], str]


def bert(prefix: str = "bert.") -> Tensors:
    """Two layers of an encoder as transformers names them, and a head."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (60, 16)}
    for layer in range(3):
        at = f"encoder.layer.{layer}"
        shapes |= {f"{at}.attention.self.{part}.weight": (16, 16) for part in ("query", "key", "value")}
        shapes |= {f"{at}.{norm}.LayerNorm.{part}": (16,) for norm in ("attention.output", "output") for part in ("weight", "bias")}
        shapes |= {f"{at}.output.dense.weight": (16, 64)}
    made = {prefix + name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"classifier.weight": rng.standard_normal((2, 16)).astype(np.float32)}


def renamed(change: Rename, tensors: Tensors | None = None) -> Tensors:
    tensors = bert() if tensors is None else tensors
    return {change(name): values for name, values in tensors.items()}


def swap(left: str, right: str) -> Rename:
    """Each of two parts of names in place of the other."""
    return lambda name: name.replace(left, "\0").replace(right, left).replace("\0", right)


def findings(reference: Tensors, tensors: Tensors) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    target = as_target(tensors, reference=reference)
    assert Capability.REFERENCE in target.capabilities
    return list(WeightDiff().detect(target, context)), dict(context.numbers)


def gravest(found: list[Finding]) -> Severity:
    severities = {rule.id: rule.severity for rule in WeightDiff.rules}
    return max((severities[item.rule] if item.severity is None else item.severity for item in found), default=Severity.INFO)


def rotate(name: str) -> str:
    return swap("self.query", "self.key")(swap("self.key", "self.value")(name))


def first_layer(change: Rename) -> Rename:
    return lambda name: change(name) if ".layer.0." in name else name


EXCHANGED: dict[str, Rename] = {
    # transformers renames gamma to weight and beta to bias when it loads (modeling_utils, _fix_state_dict_key_on_load).
    "weight and bias under names of old": lambda name: name.replace("LayerNorm.weight", "LayerNorm.beta").replace(
        "LayerNorm.bias", "LayerNorm.gamma"
    ),
    "weight and bias": swap("LayerNorm.weight", "LayerNorm.bias"),
    "two layers": swap("layer.0.", "layer.2."),
    "layers moved to new numbers": lambda name: name.replace("layer.2.", "layer.4.").replace("layer.1.", "layer.3."),
    "query and key": swap("self.query", "self.key"),
    "a circle of three": rotate,
    "layers moved in another stack": lambda name: swap("layer.0.", "layer.1.")(name).replace("encoder.layer.", "encoder.blocks."),
    "under a wrapper": lambda name: "module." + swap("layer.0.", "layer.1.")(name),
}
UNKNOWN: dict[str, Rename] = {
    "another case": lambda name: name.replace("layer.1.output.LayerNorm.weight", "layer.1.output.LayerNorm.Weight"),
    "a letter that looks alike": lambda name: name.replace("layer.1.output.dense", "layer.1.output.d\u0435nse"),
    "words nobody knows": lambda name: name.replace("dense.weight", "dense.theta"),
    "one layer of a stack": first_layer(lambda name: name.replace("encoder.layer.", "encoder.blocks.")),
    "one layer wrapped": first_layer(lambda name: "module." + name),
    "one layer without the prefix": first_layer(lambda name: name.removeprefix("bert.")),
    "another prefix": lambda name: name.replace("bert.", "roberta."),
}
KNOWN: dict[str, Rename] = {
    "names of old in their roles": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    ),
    "some names of old": first_layer(lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma")),
    "wrapped": lambda name: "module." + name,
    "compiled": lambda name: "_orig_mod." + name,
    "the bare model": lambda name: name.removeprefix("bert."),
    "a prefix of somebody's own": lambda name: "acme.net." + name,
    "a part compiled": lambda name: name.replace("bert.", "bert._orig_mod."),
}


@pytest.mark.parametrize("change", EXCHANGED.values(), ids=EXCHANGED)
def test_weights_under_the_name_of_others_are_a_change(change: Rename) -> None:
    found, summary = findings(bert(), renamed(change))
    assert summary["verdict"] != "identical"
    assert gravest(found) >= Severity.HIGH
    assert summary["score"] >= 0.5


@pytest.mark.parametrize(
    "name", ["weight and bias", "two layers", "query and key", "a circle of three", "weight and bias under names of old"]
)
def test_exchange_is_called_one(name: str) -> None:
    found, summary = findings(bert(), renamed(EXCHANGED[name]))
    assert "MG1110" in {item.rule for item in found}
    before = bert()
    after = renamed(EXCHANGED[name])
    assert summary["exchanged"]
    assert all(np.array_equal(after[mine], before[theirs]) for mine, theirs in summary["exchanged"].items())


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_renaming_that_no_loader_is_known_to_follow_is_a_change(change: Rename) -> None:
    found, summary = findings(bert(), renamed(change))
    assert summary["verdict"] == "renamed"
    assert "MG1109" in {item.rule for item in found}
    assert gravest(found) >= Severity.MEDIUM


@pytest.mark.parametrize("change", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("back", [False, True])
def test_renaming_that_loaders_know_is_none(change: Rename, back: bool) -> None:
    before, after = (renamed(change), bert()) if back else (bert(), renamed(change))
    found, summary = findings(before, after)
    assert (found, summary["verdict"], summary["score"]) == ([], "identical", 0.0)


def test_head_that_was_added_to_the_bare_model_has_no_prefix() -> None:
    assert findings(bert(""), bert())[0] == []


def test_whole_stack_under_another_word_is_low() -> None:
    found, summary = findings(bert(), renamed(lambda name: name.replace("encoder.layer.", "encoder.h.")))
    assert [(item.rule, item.severity) for item in found] == [("MG1109", Severity.LOW)]
    assert summary["verdict"] == "identical"


def test_weight_norm_in_its_two_spellings() -> None:
    rng = np.random.default_rng(1)
    old = {"conv.weight_g": rng.standard_normal((8, 1)), "conv.weight_v": rng.standard_normal((8, 4)), "conv.bias": rng.standard_normal(8)}
    names = {"conv.weight_g": "conv.parametrizations.weight.original0", "conv.weight_v": "conv.parametrizations.weight.original1"}
    assert findings(old, {names.get(name, name): values for name, values in old.items()})[0] == []
    crossed = dict(zip(names, reversed(names.values()), strict=True))
    assert findings(old, {crossed.get(name, name): values for name, values in old.items()})[1]["verdict"] != "identical"


def test_rounding_does_not_hide_an_exchange() -> None:
    rounded = {name: values.astype(ml_dtypes.bfloat16) for name, values in renamed(EXCHANGED["layers moved to new numbers"]).items()}
    found, summary = findings(bert(), rounded)
    assert summary["verdict"] == "renamed"
    assert "MG1110" in {item.rule for item in found}
    cast = {name: values.astype(ml_dtypes.bfloat16) for name, values in bert().items()}
    assert findings(bert(), cast)[1]["verdict"] == "cast"


def test_shard_whose_names_moved_to_another_is_seen() -> None:
    names = sorted(bert())
    moved = dict(zip(names, [*names[1:], names[0]], strict=True))
    halves = [{moved[name]: bert()[name] for name in part} for part in (names[:10], names[10:])]
    shards = [ArrayCheckpoint(half, f"model-0000{at + 1}-of-00002") for at, half in enumerate(halves)]
    assert diff_checkpoints([ArrayCheckpoint(bert())], shards).change.kind != "identical"


# transformers takes LayerNorm.gamma for the weight, whichever of the two it meets last.
def test_copy_under_a_name_of_old_is_no_tied_weight() -> None:
    at = "bert.encoder.layer.0.output.LayerNorm"
    found, summary = findings(bert(), bert() | {f"{at}.gamma": bert()[f"{at}.bias"]})
    assert [item.rule for item in found if item.rule.startswith("MG11")] == ["MG1102"]
    assert summary["verdict"] != "identical"


def test_copy_that_models_share_is_no_change_and_another_is() -> None:
    embedding = bert()["bert.embeddings.word_embeddings.weight"]
    shared = bert() | {"cls.predictions.decoder.weight": embedding}
    assert findings(bert(), shared)[0] == findings(shared, bert())[0] == []
    twice = bert() | {"bert.encoder.layer.3.output.dense.weight": bert()["bert.encoder.layer.2.output.dense.weight"]}
    assert "MG1102" in {item.rule for item in findings(bert(), twice)[0]}
    assert "MG1101" in {item.rule for item in findings(twice, bert())[0]}


class Onnx(ArrayCheckpoint):
    format = "onnx"


@pytest.mark.parametrize("export_is_reference", [False, True])
def test_export_without_names_is_equal_and_one_with_names_of_others_is_not(export_is_reference: bool) -> None:
    def verdict(change: Rename) -> str:
        sides = [ArrayCheckpoint(bert()), Onnx(renamed(change))]
        before, after = reversed(sides) if export_is_reference else sides
        return diff_checkpoints([before], [after]).change.kind

    order = list(bert())
    assert verdict(lambda name: f"onnx::MatMul_{order.index(name)}") == "identical"
    assert verdict(lambda name: name.replace("layer.2.", "layer.4.").replace("layer.1.", "layer.3.")) == "renamed"
