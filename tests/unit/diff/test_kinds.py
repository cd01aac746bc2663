"""Every kind and every verdict, planted; and values that are not ordinary numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import Finding, ScanContext, Severity, TensorInfo, diff_checkpoints, numpy_dtype
from modelguard._diff.changes import Change
from modelguard._diff.detector import WeightDiff
from modelguard._diff.model_level import KINDS
from modelguard._diff.rules import RULES
from modelguard.testing import ArrayCheckpoint, as_target, check_detector

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
LAYERS = 6
DTYPES = ["F32", "BF16", "F16"]


def model(dtype: str = "F32", seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    d = 64
    tensors: dict[str, npt.NDArray[np.float64]] = {
        "model.embed_tokens.weight": 0.02 * rng.standard_normal((300, d)),
        "model.norm.weight": 1 + 0.01 * rng.standard_normal(d),
    }
    for layer in range(LAYERS):
        for name, shape in (
            ("self_attn.q_proj", (d, d)),
            ("self_attn.v_proj", (d, d)),
            ("mlp.up_proj", (256, d)),
            ("mlp.down_proj", (d, 256)),
        ):
            tensors[f"model.layers.{layer}.{name}.weight"] = 0.02 * rng.standard_normal(shape)
    return {name: value.astype(numpy_dtype(dtype)) for name, value in tensors.items()}


def down(layer: int) -> str:
    return f"model.layers.{layer}.mlp.down_proj.weight"


def add(
    tensors: Tensors, names: list[str], change: Callable[[np.random.Generator, tuple[int, ...]], Array], relative: float = 0.02
) -> Tensors:
    """``tensors`` with a change of ``relative`` norm added to those named, rounded to their dtype."""
    out = dict(tensors)
    for index, name in enumerate(names):
        wide = out[name].astype(np.float64)
        step = change(np.random.default_rng([7, index]), wide.shape)
        out[name] = (wide + step * relative * np.linalg.norm(wide) / np.linalg.norm(step)).astype(out[name].dtype)
    return out


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape)


def of_rank(rank: int) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    return lambda rng, shape: np.asarray(rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])))


def each(tensors: Tensors, function: Callable[[npt.NDArray[np.float64]], Array]) -> Tensors:
    return {k: function(v.astype(np.float64)).astype(v.dtype) if v.ndim == 2 else v for k, v in tensors.items()}


def bits(tensors: Tensors, name: str, change: Callable[[Array], None]) -> Tensors:
    copy = tensors[name].copy()
    change(copy.view(f"u{copy.itemsize}").reshape(-1))
    return tensors | {name: copy}


def run(reference: Tensors, checkpoint: Tensors, folder: Path | None = None) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff", threads=2)
    findings = list(WeightDiff().detect(as_target(checkpoint, reference, folder), context))
    json.dumps([dict(finding.evidence) for finding in findings], allow_nan=False)
    json.dumps(context._summary, allow_nan=False)
    return findings, context._summary


def int8(w: npt.NDArray[np.float64]) -> Array:
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    return np.asarray(np.rint(w / step) * step)


def flip(flat: Array) -> None:
    flat[[3, 500, 9000]] ^= flat.dtype.type(1 << (8 * flat.itemsize - 2))


def payload(flat: Array) -> None:
    flat ^= np.random.default_rng(0).integers(0, 2, flat.size).astype(flat.dtype)


every = list(model())
matrices = [name for name in every if name != "model.norm.weight"]
attention = [name for name in every if "self_attn" in name]

PLANTED: dict[str, tuple[Callable[[Tensors], Tensors], str, str, int | None]] = {
    "cast": (lambda t: {k: v.astype(numpy_dtype("F8_E5M2")).astype(v.dtype) for k, v in t.items()}, "cast", "cast", None),
    "quantized": (lambda t: each(t, int8), "quantized", "quantized", None),
    "pruned": (lambda t: each(t, lambda w: np.where(np.abs(w) < 0.005, 0, w)), "pruned", "pruned", None),
    "scaled": (lambda t: each(t, lambda w: 0.98 * w), "scaled", "scaled", None),
    "rank-1 edit": (lambda t: add(t, [down(3)], of_rank(1)), "low-rank", "rank1-edit", 1),
    "edit of adjacent layers": (lambda t: add(t, [down(2), down(3), down(4)], of_rank(2), 0.01), "low-rank", "multi-layer-edit", 2),
    "merged adapter": (lambda t: add(t, attention, of_rank(4)), "low-rank", "lora-merge", 4),
    "merged rank-1 adapter": (lambda t: add(t, attention, of_rank(1)), "low-rank", "lora-merge", 1),
    "row": (lambda t: t | {"model.embed_tokens.weight": _row(t["model.embed_tokens.weight"])}, "row-edit", "row-edit", None),
    "bit flips": (lambda t: bits(t, down(1), flip), "bit-flips", "bit-flips", None),
    "payload": (lambda t: bits(t, down(1), payload), "low-bit-payload", "low-bit-payload", None),
    "permuted": (lambda t: t | {down(1): t[down(1)][::-1].copy()}, "permuted", "lone-change", None),
    "lone change": (lambda t: add(t, [down(1)], gaussian), "dense", "lone-change", None),
    "fine-tune": (lambda t: add(t, every, gaussian), "dense", "fine-tune", None),
    "last layers trained": (lambda t: add(t, [n for n in every if ".5." in n or ".4." in n], gaussian), "dense", "partial-fine-tune", None),
    "average with another": (lambda t: {k: _mean(v, model("F32", 9)[k]) for k, v in t.items()}, "dense", "merge", None),
    "unrelated": (lambda t: {k: model("F32", 9)[k].astype(v.dtype) for k, v in t.items()}, "unrelated", "unrelated", None),
    "trained, then one row": (lambda t: bits(add(t, attention, gaussian), down(1), flip), "dense", "mixed", None),
}  # fmt: skip


def _row(values: Array) -> Array:
    out = values.copy()
    out[42] = (out[42].astype(np.float64) + 0.01 * np.random.default_rng(1).standard_normal(out.shape[1])).astype(out.dtype)
    return out


def _mean(values: Array, other: Array) -> Array:
    return (0.7 * values.astype(np.float64) + 0.3 * other.astype(np.float64)).astype(values.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PLANTED)
def test_kind_and_verdict(case: str, dtype: str) -> None:
    edit, kind, verdict, rank = PLANTED[case]
    findings, summary = run(model(dtype), edit(model(dtype)))
    assert summary["verdict"] == verdict, summary["reason"]
    kinds = [item["kind"] for item in summary["tensors"] if len(item["shape"]) == 2]
    assert max(set(kinds), key=kinds.count) == kind
    assert rank is None or {item["rank"] for item in summary["tensors"]} == {rank}
    assert KINDS[verdict].rule in {finding.rule for finding in findings}


def test_dtype_change_is_a_cast_when_it_is_one() -> None:
    narrow = {k: v.astype(numpy_dtype("BF16")) for k, v in model().items()}
    assert run(model(), narrow)[1]["verdict"] == "cast"
    assert run(narrow, {k: v.astype(np.float32) for k, v in narrow.items()})[1]["verdict"] == "cast"
    findings, summary = run(model(), narrow | {down(2): add(narrow, [down(2)], of_rank(1))[down(2)]})
    assert {item["name"] for item in summary["tensors"] if item["kind"] == "low-rank"} == {down(2)}
    assert "MG1104" in {finding.rule for finding in findings}
    assert summary["verdict"] == "rank1-edit"


@pytest.mark.parametrize("vocabulary", [{"trigger": 42, "x": 1}, [["a", -1.0]] * 42 + [["trigger", -2.0]]])
def test_edited_embedding_row_names_its_token(tmp_path: Path, vocabulary: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    changed = PLANTED["row"][0](model())
    (finding,) = [finding for finding in run(model(), changed, tmp_path)[0] if finding.rule == "MG1116"]
    assert finding.location.rows == (42,)
    assert finding.evidence["tokens"] == [{"row": 42, "token": "trigger"}]
    assert "'trigger'" in finding.message


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}', '{"model": {"vocab": 7}}', '{"added_tokens": {"id": 42}}'])
def test_broken_tokenizer_only_costs_the_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    findings, _ = run(model(), PLANTED["row"][0](model()), tmp_path)
    assert "MG1116" in {finding.rule for finding in findings}


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite(dtype: str) -> None:
    broken = model(dtype)
    broken[down(0)][5, 5:9] = [np.nan, np.inf, -np.inf, np.nan]
    findings, summary = run(model(dtype), broken)
    assert [finding.evidence["count"] for finding in findings if finding.rule == "MG1108"] == [4]
    assert summary["verdict"] != "identical"
    both = model(dtype)
    both[down(0)][5, 5] = np.nan
    assert run(both, both)[1]["verdict"] == "identical"
    edited = add(both, [down(1)], of_rank(1))
    assert run(both, edited)[1]["verdict"] == "rank1-edit"


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_tiny_and_huge_values_keep_their_norms(dtype: str) -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-39, 1e-30, 1e-20, 1e15, 1e30):
        reference = {"w.weight": (scale * rng.standard_normal((64, 64))).astype(numpy_dtype(dtype))}
        (entry,) = run(reference, add(reference, ["w.weight"], gaussian, 0.1))[1]["tensors"]
        tolerance = 0.6 if scale == 1e-39 else 0.05
        assert entry["relative_norm"] == pytest.approx(0.1, rel=tolerance), scale


def test_exponent_flip_does_not_overflow_the_report() -> None:
    flipped = bits(model("BF16"), down(1), flip)
    (entry,) = run(model("BF16"), flipped)[1]["tensors"]
    assert entry["relative_norm"] > 1e10


def test_empty_scalar_and_integer_tensors() -> None:
    reference: Tensors = {
        "empty": np.zeros((0, 4), np.float32), "scalar": np.array(1.5, np.float32), "ids": np.arange(1000), "mask": np.ones((8, 8), bool),
        "wide": np.arange(4096, dtype=np.uint8).reshape(64, 64), "double": np.ones(5), "none": np.zeros(0, np.float16),
    }  # fmt: skip
    assert run(reference, dict(reference))[1]["verdict"] == "identical"
    changed = reference | {"scalar": np.array(2.5, np.float32), "ids": np.arange(1000)[::-1].copy(), "mask": np.zeros((8, 8), bool)}
    _, summary = run(reference, changed)
    assert {item["name"] for item in summary["tensors"]} == {"scalar", "ids", "mask"}


def test_float_stored_as_integers_is_not_an_identity() -> None:
    findings, summary = run(model(), model() | {down(0): np.rint(model()[down(0)] * 1000).astype(np.int8)})
    assert "MG1105" in {finding.rule for finding in findings}
    assert summary["verdict"] != "identical"
    assert summary["tensors"][0]["relative_norm"] is None


class Packed(ArrayCheckpoint):
    """Two 4-bit elements to a byte, as safetensors stores F4."""

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: replace(info, dtype="F4", shape=(*info.shape[:-1], 2 * info.shape[-1])) for name, info in super().tensors.items()}


def test_elements_narrower_than_a_byte_are_compared_as_bytes() -> None:
    bytes_ = {"w": np.random.default_rng(0).integers(0, 256, (16, 32)).astype(np.uint8)}
    changed = {"w": bytes_["w"] ^ np.uint8(1)}
    assert diff_checkpoints([Packed(bytes_)], [Packed(dict(bytes_))]).change.kind == "identical"
    (entry,) = diff_checkpoints([Packed(bytes_)], [Packed(changed)]).tensors
    assert (entry.kind, entry.comparable) == ("not-compared", False)
    (entry,) = diff_checkpoints([ArrayCheckpoint({"w": np.ones((16, 64), np.float32)})], [Packed(bytes_)]).tensors
    assert not entry.comparable


def test_dense_change_of_one_projection_in_a_few_layers_is_high() -> None:
    findings, summary = run(model(), add(model(), [down(2), down(3)], gaussian))
    assert summary["verdict"] == "partial-fine-tune"
    assert [finding.severity for finding in findings if finding.rule == "MG1207"] == [Severity.HIGH]


def test_keeps_the_contract_of_detectors() -> None:
    check_detector(WeightDiff, as_target(PLANTED["rank-1 edit"][0](model()), model()))


def test_every_kind_and_verdict_has_its_rule() -> None:
    declared = {rule.id for rule in RULES}
    named = {kind.rule for kind in KINDS.values() if kind.name != "identical"} | {change.rule for change in Change.__subclasses__()}
    assert {rule for rule in declared if (rule > "MG1110" or rule == "MG1105") and rule not in ("MG1122", "MG1123")} == named
    assert all(rule.description and rule.remedy for rule in RULES)
