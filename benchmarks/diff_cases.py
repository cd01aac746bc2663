"""Generated tensor pairs with a known answer: twelve kinds, several dtypes, shapes and seeds, changes down to 0.2 % of ||W||.

Seeds below 1000 are for tuning; the benchmark judges by seeds and shapes that tuning never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard import numpy_dtype

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """One pair and the answer: ``kind`` and, for low-rank changes, ``rank``."""

    label: str
    kind: str
    rank: int | None
    reference: Array
    checkpoint: Array


def weights(rng: np.random.Generator, shape: tuple[int, int]) -> F64:
    """Heavy-tailed weights with rows and columns of different scale, as trained ones have."""
    rows = np.exp(0.3 * rng.standard_normal((shape[0], 1)))
    columns = np.exp(0.3 * rng.standard_normal((1, shape[1])))
    return np.asarray(0.02 * rng.standard_t(5, shape) * rows * columns)


def plus(w: F64, change: F64, relative: float) -> F64:
    """W + M with ||M|| = ``relative`` ||W||."""
    return np.asarray(w + change * (relative * np.linalg.norm(w) / np.linalg.norm(change)))


def low_rank(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> F64:
    """A sum of ``rank`` outer products of heavy-tailed vectors, of decreasing weight."""
    left, right = rng.standard_t(4, (shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return np.asarray((left * np.linspace(1.0, 0.5, rank)) @ right)


def coloured(rng: np.random.Generator, shape: tuple[int, int], power: float) -> F64:
    """A dense update whose singular values fall as k^-power, as real training leaves."""
    k = min(shape)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], k)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], k)))
    return np.asarray((left * np.arange(1, k + 1.0) ** -power) @ right.T)


def int_round_trip(w: F64, levels: int, group: int | None) -> F64:
    grouped = w.reshape(-1, group) if group else w
    step = np.abs(grouped).max(axis=1, keepdims=True) / levels
    return np.asarray(np.clip(np.rint(grouped / step), -levels - 1, levels) * step).reshape(w.shape)


Edit = Callable[[np.random.Generator, Array, str], Array]


def _rounded(function: Callable[[np.random.Generator, F64], F64]) -> Edit:
    return lambda rng, w, dtype: function(rng, w.astype(np.float64)).astype(numpy_dtype(dtype))


def _bits(values: Array) -> Array:
    return values.view(f"u{values.itemsize}")


def _flips(rng: np.random.Generator, w: Array, dtype: str) -> Array:
    out = w.copy()
    flat = _bits(out).reshape(-1)
    at = rng.choice(flat.size, size=int(rng.integers(1, 12)), replace=False)
    # Sign or exponent, as attacks choose.
    flat[at] ^= (np.ones(len(at), flat.dtype) << rng.integers(flat.itemsize * 8 - 6, flat.itemsize * 8, len(at)).astype(flat.dtype)).astype(
        flat.dtype
    )
    return out


def _payload(bits: int, share: float) -> Edit:
    def edit(rng: np.random.Generator, w: Array, dtype: str) -> Array:
        out = w.copy()
        flat = _bits(out).reshape(-1)
        count = int(share * flat.size)
        mask = flat.dtype.type((1 << bits) - 1)
        flat[:count] = (flat[:count] & ~mask) | rng.integers(0, 1 << bits, count).astype(flat.dtype)
        return out

    return edit


def _rows(rng: np.random.Generator, w: F64) -> F64:
    out = w.copy()
    at = rng.choice(len(w), size=int(rng.integers(1, max(2, len(w) // 40))), replace=False)
    out[at] += 0.5 * np.abs(w[at]).mean() * rng.standard_normal((len(at), w.shape[1]))
    return out


def _columns(rng: np.random.Generator, w: F64) -> F64:
    return np.ascontiguousarray(_rows(rng, np.ascontiguousarray(w.T)).T)


def _prune(share: float) -> Callable[[np.random.Generator, F64], F64]:
    return lambda rng, w: np.where(np.abs(w) < np.quantile(np.abs(w), share), 0.0, w)


RELATIVE = (0.035, 0.01, 0.002)
EDITS: list[tuple[str, str, int | None, Edit]] = [
    ("identical", "identical", None, lambda rng, w, dtype: w.copy()),
    *((f"rank {r} at {rel}", "low-rank", r, _rounded(lambda rng, w, r=r, rel=rel: plus(w, low_rank(rng, w.shape, r), rel)))  # type: ignore[misc]
      for r in (1, 2, 4, 8, 16, 32) for rel in RELATIVE),
    *(
        (f"gaussian at {rel}", "dense", None, _rounded(lambda rng, w, rel=rel: plus(w, rng.standard_normal(w.shape), rel)))  # type: ignore[misc]
        for rel in RELATIVE
    ),
    *((f"coloured {p} at {rel}", "dense", None, _rounded(lambda rng, w, p=p, rel=rel: plus(w, coloured(rng, w.shape, p), rel)))  # type: ignore[misc]
      for p in (0.5, 1.0) for rel in RELATIVE),
    ("spike over dense", "dense", None, _rounded(
        lambda rng, w: plus(plus(w, low_rank(rng, w.shape, 1), 0.05), rng.standard_normal(w.shape), 0.01))),
    ("int8 per row", "quantized", None, _rounded(lambda rng, w: int_round_trip(w, 127, None))),
    ("int8 per tensor", "quantized", None, _rounded(lambda rng, w: int_round_trip(w.reshape(1, -1), 127, None).reshape(w.shape))),
    ("int4 group 32", "quantized", None, _rounded(lambda rng, w: int_round_trip(w, 7, 32))),
    ("pruned 30 %", "pruned", None, _rounded(_prune(0.3))),
    ("pruned 2 %", "pruned", None, _rounded(_prune(0.02))),
    ("scaled 0.99", "scaled", None, _rounded(lambda rng, w: 0.99 * w)),
    ("scaled by row", "scaled", None, _rounded(lambda rng, w: w * np.exp(0.1 * rng.standard_normal((len(w), 1))))),
    ("rows", "row-edit", None, _rounded(_rows)),
    ("columns", "row-edit", None, _rounded(_columns)),
    ("flips", "bit-flips", None, _flips),
    ("1 bit everywhere", "low-bit-payload", None, _payload(1, 1.0)),
    ("2 bits in a fifth", "low-bit-payload", None, _payload(2, 0.2)),
    ("permuted rows", "permuted", None, lambda rng, w, dtype: w[rng.permutation(len(w))]),
    ("permuted columns", "permuted", None, lambda rng, w, dtype: np.ascontiguousarray(w[:, rng.permutation(w.shape[1])])),
    ("unrelated", "unrelated", None, _rounded(lambda rng, w: weights(rng, (w.shape[0], w.shape[1])))),
    ("through f8", "cast", None, lambda rng, w, dtype: w.astype(numpy_dtype("F8_E5M2")).astype(numpy_dtype(dtype))),
]  # fmt: skip


def cases(dtype: str, shape: tuple[int, int], seed: int) -> Iterator[Case]:
    """Every edit of one reference."""
    for label, kind, rank, edit in EDITS:
        rng = np.random.default_rng([seed, *shape, *label.encode()])
        reference = weights(rng, shape).astype(numpy_dtype(dtype))
        if rank is not None and rank * (sum(shape) - rank) > 0.25 * shape[0] * shape[1]:
            continue
        yield Case(f"{label}, {dtype} {shape[0]}x{shape[1]} seed {seed}", kind, rank, reference, edit(rng, reference, dtype))


def judge(
    seeds: range,
    shapes: tuple[tuple[int, int], ...],
    dtypes: tuple[str, ...] = ("BF16", "F16", "F32"),
    processes: int = 1,
) -> dict[str, Any]:
    """Share of cases with the right kind, of low-rank ones with the exact rank, and the false rank-1 verdicts."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from modelguard._diff.processes import scatter

    groups = [(dtype, shape, seed) for seed in seeds for dtype in dtypes for shape in shapes]
    with threadpool_limits(1, "blas"):
        found = dict(scatter(lambda group: [_judged(case) for case in cases(*group)], groups, processes, lambda: None))
    judged = [item for index in range(len(groups)) for item in found[index]]
    ranked = [item for item in judged if item.rank is not None]
    return {
        "cases": len(judged),
        "kind_right": sum(item.found_kind == item.kind for item in judged) / len(judged),
        "ranked": len(ranked),
        "rank_exact": sum(item.found_rank == item.rank for item in ranked) / max(1, len(ranked)),
        "false_rome": sum(item.verdict in ("rank1-edit", "multi-layer-edit") and item.rank != 1 for item in judged),
        "wrong": [
            f"{item.label}: {item.found_kind} {item.found_rank if item.found_rank is not None else ''}".strip()
            for item in judged
            if (item.found_kind, item.found_rank) != (item.kind, item.rank)
        ],
    }


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to one case, and what was found."""

    label: str
    kind: str
    rank: int | None
    found_kind: str
    found_rank: int | None
    verdict: str


def _judged(case: Case) -> Judged:
    from modelguard import diff_checkpoints
    from modelguard.testing import ArrayCheckpoint

    name = "model.layers.3.mlp.down_proj.weight"
    other = {"model.layers.0.mlp.down_proj.weight": case.reference}
    diff = diff_checkpoints([ArrayCheckpoint({name: case.reference} | other)], [ArrayCheckpoint({name: case.checkpoint} | other)])
    found = diff.tensors[0] if diff.tensors else None
    return Judged(case.label, case.kind, case.rank, found.kind if found else "identical", found.rank if found else None, diff.change.kind)
