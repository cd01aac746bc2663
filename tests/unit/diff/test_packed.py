"""Quantised copies that pack several entries into one element: compared as the values they stand for; an edit in them is still one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import ModelDiff, diff_checkpoints, numpy_dtype
from modelguard._diff.packed import MOST
from modelguard.testing import ArrayCheckpoint

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
FP8 = numpy_dtype("F8_E4M3")
FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
NF4 = np.asarray(
    [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0,
     0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.5626170, 0.72295684, 1], np.float32,
)  # fmt: skip
"""Dettmers et al. 2023, appendix E."""
ROWS, COLUMNS, GROUP = 160, 192, 64


def model() -> Tensors:
    rng = np.random.default_rng(0)
    return {f"layers.{layer}.w.weight": (0.02 * rng.standard_normal((ROWS, COLUMNS))).astype(np.float32) for layer in range(3)}


def pack(values: Array, bits: int, axis: int) -> Array:
    wide = np.moveaxis(values, axis, -1).astype(np.uint32)
    parts = wide.reshape(*wide.shape[:-1], -1, 32 // bits)
    words = sum((parts[..., at] << np.uint32(bits * at) for at in range(32 // bits)), np.zeros(parts.shape[:-1], np.uint32))
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def levels(values: Array, bits: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """Unsigned levels (rows, columns), scales and zeros (rows, groups)."""
    groups, most = values.reshape(len(values), -1, GROUP), (1 << bits) - 1
    if symmetric:
        scale = np.abs(groups).max(axis=2) / (most // 2)
        zero = np.full(scale.shape, 1 << (bits - 1))
    else:
        scale = (groups.max(axis=2) - groups.min(axis=2)) / most
        zero = np.rint(-groups.min(axis=2) / scale).astype(np.int64)
    found = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, most)
    return found.astype(np.uint32).reshape(values.shape), scale.astype(np.float32), zero


def compressed(name: str, values: Array, bits: int = 4, symmetric: bool = True) -> Tensors:
    found, scale, zero = levels(values, bits, symmetric)
    made = {f"{name}_packed": pack(found, bits, 1), f"{name}_scale": scale, f"{name}_shape": np.asarray(values.shape, np.int64)}
    return made if symmetric else made | {f"{name}_zero_point": pack(zero, bits, 0)}


def gptq(name: str, values: Array, bits: int = 4, symmetric: bool = False, first: int = 1, order: bool = False) -> Tensors:
    stem = name.removesuffix("weight")
    turn = np.random.default_rng(5).permutation(COLUMNS) if order else np.arange(COLUMNS)
    found, scale, zero = levels(values[:, turn], bits, symmetric)
    back = np.argsort(turn)
    group = (back // GROUP).astype(np.int32)
    return {
        f"{stem}qweight": pack(found[:, back].T, bits, 0), f"{stem}scales": np.ascontiguousarray(scale.T).astype(np.float16),
        f"{stem}qzeros": pack((np.maximum(zero, first) - first).T, bits, 1), f"{stem}g_idx": group,
    }  # fmt: skip


def awq(name: str, values: Array, inputs: float = 0.0) -> Tensors:
    """``inputs`` is the spread of the factors that its inputs are multiplied by."""
    stem = name.removesuffix("weight")
    factors = np.exp(inputs * np.random.default_rng(7).standard_normal(COLUMNS))
    found, scale, zero = levels((values * factors).astype(np.float32), 4, False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def shuffled(numbers: Array) -> Array:
        return pack(numbers.reshape(len(numbers), -1, 8)[..., order].reshape(len(numbers), -1), 4, 1)

    return {
        f"{stem}qweight": shuffled(found.T), f"{stem}qzeros": shuffled(zero.T.astype(np.uint32)),
        f"{stem}scales": np.ascontiguousarray(scale.T).astype(np.float16),
    }  # fmt: skip


def nf4(name: str, values: Array, nested: bool = False) -> Tensors:
    flat = values.reshape(-1, GROUP)
    absmax = np.abs(flat).max(axis=1)
    made: Tensors = {}
    said: dict[str, Any] = {"quant_type": "nf4", "blocksize": GROUP, "shape": list(values.shape), "dtype": "float16"}
    if nested:
        offset, table = float(absmax.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
        blocks = (absmax - offset).reshape(-1, 96)
        most = np.abs(blocks).max(axis=1)
        stored = np.abs(table[None, None] - (blocks / most[:, None])[..., None]).argmin(axis=-1)
        absmax = (table[stored] * most[:, None]).reshape(-1) + np.float32(offset)
        said |= {"nested_blocksize": 96, "nested_offset": offset, "nested_dtype": "float32"}
        made = {f"{name}.nested_absmax": most.astype(np.float32), f"{name}.nested_quant_map": table}
    index = np.abs(NF4 - (flat / absmax[:, None])[..., None]).argmin(axis=-1).reshape(-1, 2)
    return made | {
        name: (index[:, :1] << 4 | index[:, 1:]).astype(np.uint8), f"{name}.quant_map": NF4,
        f"{name}.absmax": stored.reshape(-1).astype(np.uint8) if nested else absmax.astype(np.float32),
        f"{name}.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(said).encode(), np.uint8),
    }  # fmt: skip


def nvfp4(name: str, values: Array, divides: bool = False) -> Tensors:
    whole = np.float32(np.abs(values).max() / (6 * 448))
    groups = values.reshape(ROWS, -1, 16)
    scale = (np.abs(groups).max(axis=2) / 6 / whole).astype(FP8)
    scaled = groups / (scale.astype(np.float32) * whole)[..., None]
    index = (np.abs(np.abs(scaled)[..., None] - FP4[:8]).argmin(axis=-1) + 8 * (scaled < 0)).reshape(ROWS, -1)
    pairs = (index[:, 0::2] | index[:, 1::2] << 4).astype(np.uint8)
    if divides:
        return {f"{name}_packed": pairs, f"{name}_scale": scale, f"{name}_global_scale": np.asarray([1 / whole], np.float32)}
    return {name: pairs, f"{name}_scale": scale, f"{name}_scale_2": np.asarray(whole)}


def quanto(name: str, values: Array) -> Tensors:
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    return {f"{name}._data": np.rint(values / scale).astype(np.int8), f"{name}._scale": scale}


LAYOUTS: dict[str, Callable[[str, Array], Tensors]] = {
    "compressed INT4": compressed,
    "compressed INT4, zeros": lambda name, values: compressed(name, values, symmetric=False),
    "compressed INT8": lambda name, values: compressed(name, values, bits=8),
    "GPTQ": gptq,
    "GPTQ, symmetric": lambda name, values: gptq(name, values, symmetric=True),
    "GPTQ v2, symmetric": lambda name, values: gptq(name, values, symmetric=True, first=0),
    "GPTQ in another order": lambda name, values: gptq(name, values, order=True),
    "GPTQ INT8": lambda name, values: gptq(name, values, bits=8),
    "AWQ": awq,
    "AWQ, inputs scaled": lambda name, values: awq(name, values, inputs=0.5),
    "NF4": nf4,
    "NF4, scales quantised": lambda name, values: nf4(name, values, nested=True),
    "NVFP4": nvfp4,
    "NVFP4 of compressed-tensors": lambda name, values: nvfp4(name, values, divides=True),
    "quanto": quanto,
}


def quantised(tensors: Tensors, how: str) -> Tensors:
    return {key: part for name, values in tensors.items() for key, part in LAYOUTS[how](name, values).items()}


def difference(before: Tensors, after: Tensors) -> ModelDiff:
    return diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])


@pytest.mark.parametrize("how", LAYOUTS)
def test_a_quantised_copy_is_one(how: str) -> None:
    found = difference(model(), quantised(model(), how))
    assert (found.change.kind, found.change.reason) == ("quantized", "3 tensors are the reference quantised and back; nothing else changed")
    assert {item.shape for item in found.tensors} == {(ROWS, COLUMNS)}
    assert not found.matching.added
    if "scaled" not in how:
        assert max(item.relative_norm for item in found.tensors) < 0.2


@pytest.mark.parametrize("how", LAYOUTS)
def test_a_row_that_was_edited_before_it_was_quantised_is_seen(how: str) -> None:
    edited, name = model(), "layers.1.w.weight"
    edited[name][17] += (0.04 * np.random.default_rng(1).standard_normal(COLUMNS)).astype(np.float32)
    kinds = {item.name: item.kind for item in difference(model(), quantised(edited, how)).tensors}
    assert kinds[name] in ("row-edit", "dense")
    assert {kind for key, kind in kinds.items() if key != name} == {"quantized"}


@pytest.mark.parametrize("how", LAYOUTS)
def test_another_model_in_that_layout_is_not_the_reference_quantised(how: str) -> None:
    other = {name: (0.02 * np.random.default_rng(9).standard_normal(values.shape)).astype(np.float32) for name, values in model().items()}
    assert "quantized" not in {item.kind for item in difference(model(), quantised(other, how)).tensors}


@pytest.mark.parametrize("how", LAYOUTS)
def test_two_copies_quantised_alike_are_compared_as_they_are(how: str) -> None:
    before, after = quantised(model(), how), quantised(model(), how)
    assert difference(before, after).change.kind == "identical"
    key = next(key for key in sorted(after) if "scale" in key or "absmax" in key)
    changed = after[key].copy().reshape(-1).view(np.uint8)
    changed[0] ^= 0x11
    after[key] = changed.view(after[key].dtype).reshape(after[key].shape)
    assert [item.name for item in difference(before, after).tensors] == [key]


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("part", range(4))
def test_a_part_of_another_shape_or_none_at_all_is_no_layout(how: str, part: int) -> None:
    after = quantised(model(), how)
    keys = sorted(key for key in after if key.startswith("layers.1."))
    if part >= len(keys):
        return
    shorter = after[keys[part]].reshape(-1)[: max(1, after[keys[part]].size - 1)]
    # Without its zeros a tensor is one of symmetric levels, and another one.
    for change in (shorter,) if keys[part].endswith("zero_point") else (None, shorter):
        broken = {key: values for key, values in after.items() if key != keys[part]} | ({} if change is None else {keys[part]: change})
        found = difference(model(), broken)
        assert found.change.kind != "identical"
        assert "layers.1.w.weight" not in {item.name for item in found.tensors if item.kind == "dense"}


@pytest.mark.parametrize("state", ["{", "[]", '{"shape": [-1, 8], "blocksize": 64}', '{"shape": [160, 192], "blocksize": 0}', "[" * 4000])
def test_what_bitsandbytes_says_of_a_tensor_may_be_anything(state: str) -> None:
    after = quantised(model(), "NF4")
    for key in after:
        if "quant_state" in key:
            after[key] = np.frombuffer(state.encode(), np.uint8)
    assert {item.kind for item in difference(model(), after).tensors} <= {"not-compared"}


# GPTQ itself (Frantar et al. 2022, algorithm 1), on inputs of several kinds.


def by_gptq(values: Array, inputs: Array) -> Array:
    """The rows after quantisation to four bits, the levels of each column making up for the errors of those before it."""
    left = values.astype(np.float64)
    hessian = inputs.T @ inputs / len(inputs)
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    found = np.zeros_like(left)
    scale = np.ones(len(left))
    for at in range(left.shape[1]):
        if at % GROUP == 0:
            scale = np.abs(left[:, at : at + GROUP]).max(axis=1) / 7
        found[:, at] = np.clip(np.rint(left[:, at] / scale), -8, 7) * scale
        left[:, at + 1 :] -= np.outer((left[:, at] - found[:, at]) / upper[at, at], upper[at, at + 1 :])
    return found


@pytest.mark.parametrize(("rank", "noise"), [(192, 1.0), (64, 0.3), (16, 0.1), (8, 0.03), (4, 0.01)])
def test_levels_that_make_up_for_each_other_are_within_reach(rank: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    values = model()["layers.0.w.weight"]
    inputs = rng.standard_normal((1024, rank)) @ rng.standard_normal((rank, COLUMNS)) / rank**0.5 + noise * rng.standard_normal(
        (1024, COLUMNS)
    )
    found = by_gptq(values, inputs)
    steps = np.repeat(np.abs(found.reshape(ROWS, -1, GROUP)).max(axis=2) / 7, GROUP, axis=1)
    assert np.sqrt(np.square((found - values) / steps).mean(axis=1)).max() < 0.7 * MOST
