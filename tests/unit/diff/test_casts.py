"""What a cast destroys, what a file's bytes do not say, and elements that are not entries of a matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelguard import Finding, ScanContext, TensorInfo, diff_checkpoints, numpy_dtype
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target

Tensors = dict[str, Any]


def run(reference: Tensors, checkpoint: Tensors) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    return list(WeightDiff().detect(as_target(checkpoint, reference), context)), context._summary


class Declared(ArrayCheckpoint):
    """Tensors whose header says another dtype or shape than the arrays have."""

    def __init__(self, tensors: Tensors, **said: Any) -> None:
        super().__init__(tensors)
        self.said = said

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: replace(info, **self.said) for name, info in super().tensors.items()}


def weights(shape: tuple[int, ...] = (64, 96)) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3", "F8_E5M2"])
def test_overflow_in_a_cast_is_not_finite(dtype: str) -> None:
    def lost(values: Any) -> list[tuple[str, int]]:
        with np.errstate(over="ignore"):
            cast = Declared({"w": values.astype(numpy_dtype(dtype))}, dtype=dtype)
        return [(item.kind, item.non_finite) for item in diff_checkpoints([ArrayCheckpoint({"w": values})], [cast]).tensors]

    huge = weights()
    huge[3, 4:7] = 1e6
    assert lost(huge) == [("cast", 3)]
    assert lost(weights()) == [("cast", 0)]


def test_overflow_in_a_cast_is_a_finding() -> None:
    huge = weights()
    huge[3, 4:7] = 1e6
    with np.errstate(over="ignore"):
        findings, _ = run({"w": huge}, {"w": huge.astype(np.float16)})
    assert [finding.evidence["count"] for finding in findings if finding.rule == "MG1108"] == [3]


def test_infinities_of_the_reference_are_not_introduced_by_its_cast() -> None:
    with_infinity = weights()
    with_infinity[0, 0] = np.inf
    assert "MG1108" not in {finding.rule for finding in run({"w": with_infinity}, {"w": with_infinity.astype(np.float16)})[0]}


@pytest.mark.parametrize("shape", [(4096,), (64, 64)])
@pytest.mark.parametrize(("before", "after"), [("int64", "int8"), ("int16", "uint8"), ("int64", "uint16")])
def test_integers_that_wrap_around_are_changed(shape: tuple[int, ...], before: str, after: str) -> None:
    ids = (np.arange(4096) - 2048).reshape(shape).astype(before)
    findings, summary = run({"ids": ids}, {"ids": ids.astype(after)})
    (entry,) = summary["tensors"]
    assert entry["kind"] not in ("cast", "permuted", "pruned", "bit-flips")
    assert entry["changed"] == np.count_nonzero(ids != ids.astype(after))
    assert entry["relative_norm"] > 0.5
    assert "MG1104" in {finding.rule for finding in findings}
    small = np.arange(100).reshape(10, 10)
    assert run({"ids": small.astype(before)}, {"ids": small.astype(after)})[1]["verdict"] == "cast"


def test_equal_digests_do_not_make_another_shape_identical() -> None:
    digest = {"model.safetensors": "0" * 64}
    for shape in ((96, 64), (6144,)):
        before, after = Declared({"w": weights()}), Declared({"w": weights()}, shape=shape)
        diff = diff_checkpoints([before], [after], reference_digests=digest, digests=digest)
        assert diff.change.kind != "identical"
        assert diff.by_digest == ()


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0"])
@pytest.mark.parametrize("names", [("w", "w"), ("w", "v")])
def test_opaque_elements_in_another_layout_are_not_compared(dtype: str, names: tuple[str, str]) -> None:
    wide = (64, 192) if dtype == "F4" else (64, 96)
    packed = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.uint8)
    sides = [Declared({name: packed}, dtype=dtype, shape=shape) for name, shape in zip(names, (wide, wide[::-1]), strict=True)]
    diff = diff_checkpoints([sides[0]], [sides[1]])
    assert diff.change.kind != "identical"
    assert not any(item.comparable for item in diff.tensors)
    assert diff_checkpoints([sides[0]], [sides[0]]).change.kind == "identical"


@pytest.mark.parametrize("change", ["transposed", "squeezed", "grown", "renamed"])
def test_complex_numbers_in_another_layout_are_not_compared(change: str) -> None:
    spectrum = np.random.default_rng(0).standard_normal((8, 24)).astype(np.complex64)
    other = {
        "transposed": spectrum.T.copy(),
        "squeezed": spectrum.reshape(8, 1, 24),
        "grown": np.concatenate([spectrum, spectrum[:2]]),
        "renamed": spectrum.T.copy(),
    }[change]
    reference = Declared({"w": spectrum}, dtype="C64")
    diff = diff_checkpoints([reference], [Declared({"v" if change == "renamed" else "w": other}, dtype="C64")])
    assert diff.change.kind != "identical"
    assert not any(item.comparable for item in diff.tensors)
    assert diff.tensors or diff.matching.added
    assert diff_checkpoints([reference], [reference]).change.kind == "identical"
    wide = Declared({"w": spectrum.astype(np.complex128)}, dtype="C128")
    assert diff_checkpoints([reference], [wide]).change.kind == "cast"


def test_flips_confined_to_a_short_last_block_are_reported() -> None:
    # Blocks hold 98304 entries: the last one is 70 entries, most of which differ.
    long = np.ones(3 * 98304 * 16 + 70, np.float16)
    flipped = long.copy()
    flipped[-66:].view(np.uint16)[:] ^= 1 << 14
    findings, summary = run({"w": long}, {"w": flipped})
    assert summary["tensors"][0]["kind"] == "bit-flips"
    (found,) = [finding for finding in findings if finding.rule == "MG1117"]
    assert len(found.evidence["flips"]) == 64
