"""The exact rank of a change, by replaying it: is W' bit for bit what rounding W + M of rank r gives?

Energy ratios and noise-edge tests misjudge real files: weights already lie on the dtype's grid, so rounding W + M is a dead
zone that swallows small entries, not additive noise. The replay test asks the decisive question instead. It estimates
M = sum_r s u v^T from D = W' - W, replays Q(W + M) in the file's own dtype, and counts the entries that come out bit-exact.

The estimate is refined by X <- M + (D - D_hat) with D_hat = Q(W + M) - W, projected back to rank r: where the replay already
agrees X is M itself, elsewhere X moves by the missing grid steps, so rounding noise leaves the spectrum and what remains of
it shows a gap after the true rank. Projections are by randomised subspace iteration (Halko, Martinsson, Tropp 2011,
algorithms 4.4 and 5.1), warm-started from the previous estimate; rows are visited in blocks, so memory does not depend on the
matrix beyond its thin factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelguard._diff.grid import F64, FLOATS, Array, narrow, widen
from modelguard._diff.scratch import Scratch, round_to, widen_into

AGREE = 0.80
"""Share of moved entries that the replay must reproduce bit for bit at the rank it claims."""
DISAGREE = 0.70
"""With one rank less, an agreement under this is proof enough where the spectrum breaks as well (``BREAK``, ``STEEP``)."""
STEEP = 10.0
"""s_r / s_{r+1} of the refined estimate that needs no further question."""
BREAK = 1.5
"""The same ratio that any claim needs."""
GAP = 2.4
"""The same ratio where one rank less still reaches ``DISAGREE``: weak changes of high rank in coarse dtypes, where one of
many directions moves few entries."""
KNEE = 0.2
"""Short of ``STEEP`` the agreement must stop rising at r: agreement(r + 1) - agreement(r) is at most this share of
agreement(r) - agreement(r - 1). A smooth spectrum that sinks under the grid has no such knee."""
GAIN = 0.02
"""And that last difference is at least this."""
SHEER = 100.0
"""s_r / s_{r+1} that no trained update shows; with it, a change as large as W may be accepted at a lower agreement."""
ROUNDED_SUMS = 0.3
"""Agreement that is left in float32 and float64 when M's own rounding is of the size of W's."""
WITHIN_ULP = 0.95
"""Share of moved entries that must lie within one unit in the last place of the replay."""
FREEDOM = 0.5
"""r (m + n - r) parameters may be at most this share of the m n entries, and no more than the entries that moved: more fit anything.
The second bound is for training steps so small that few 16-bit entries move."""
OVERSAMPLE = 7
RESOLVED = 1e-7
"""Singular values under this share of the first are lost: a projection in float64 (epsilon 1e-16) leaves an error of epsilon s_1^2 / s_k in
the direction of s_k, which only from here on is below the last bit of a float32."""
CONVINCED = 0.97
"""Agreement that is not refined any further."""
HOPELESS = 0.05
"""A replay that reproduces less than this at first is not refined."""
F64_SLACK = 8
"""The replay computes in float64, so entries of F64 files count as exact within this many units in the last place."""
PASSES = 8
"""Refinements at most; a replay that stopped improving ends sooner."""
BLOCK = 1 << 17
"""Entries of a row block: it and its temporaries stay in cache."""

_SCRATCH = Scratch()


@dataclass(frozen=True, slots=True)
class Replay:
    """What replaying found.

    ``rank`` is the exact rank, or None when no rank up to the limit reproduces the change. ``agreement`` is the share of
    entries moved by the file or by the replay that came out bit-exact at ``tried`` (= ``rank`` when there is one);
    ``agreement_below`` the same at ``tried`` - 1 (0 at rank 0); ``within_ulp`` the share within one unit in the last place;
    ``gap`` is s_r / s_{r+1} of the refined estimate. ``u`` (m, tried) and ``v`` (n, tried) have orthonormal columns and
    ``s`` (tried,) descends: M = (u * s) @ v.T. ``moved`` counts the entries that differ between the files.
    """

    rank: int | None
    tried: int
    agreement: float
    agreement_below: float
    within_ulp: float
    gap: float
    moved: int
    u: F64
    s: F64
    v: F64


def replay_rank(
    reference: Array,
    changed: Array,
    dtype: str,
    max_rank: int = 64,
    *,
    hint: int | None = None,
    seed: int = 0,
    check: Callable[[], None] | None = None,
) -> Replay:
    """The smallest rank r <= ``max_rank`` for which W' = Q(W + M), rank M = r, holds entry by entry.

    ``reference`` and ``changed`` are (m, n) arrays in the files' own ``dtype`` (a key of ``DTYPE_BITS`` naming a float dtype);
    they may be memory-mapped, and a ``reference`` of another float dtype is rounded to ``dtype`` first. Entries that are not finite
    on either side are left out. ``hint`` is a rank to try first, say that of a submatrix. ``check`` is called between passes and may
    raise to stop.

    Raises ``ValueError`` for another dtype, other dimensions, or shapes that differ.
    """
    if dtype not in FLOATS:
        raise ValueError(f"replay needs a float dtype, not {dtype}")
    if reference.ndim != 2 or reference.shape != changed.shape:
        raise ValueError(f"replay needs two matrices of one shape, not {reference.shape} and {changed.shape}")
    search = _Search(_Pair(reference, changed, dtype, check or (lambda: None)), seed)
    try:
        # One BLAS thread: these products are thin, and their sums must not depend on how many there are.
        with threadpool_limits(1, "blas"):
            return search.run(_rank_limit(reference.shape, max_rank, FREEDOM * reference.size), hint)
    except _OutOfRange:
        m, n = reference.shape
        return Replay(None, 0, 0.0, 0.0, 0.0, 0.0, 0, np.zeros((m, 0)), np.zeros(0), np.zeros((n, 0)))


def _rank_limit(shape: tuple[int, ...], max_rank: int, parameters: float) -> int:
    """The largest rank up to ``max_rank`` that has no more than ``parameters``."""
    m, n = shape
    if m * n == 0:
        return 0
    limit = min(max_rank, m, n)
    while limit > 0 and limit * (m + n - limit) > parameters:
        limit -= 1
    return limit


@dataclass(frozen=True, slots=True)
class _Factors:
    """A thin estimate X ~ (u * s) @ v.T with k = len(s) columns."""

    u: F64
    s: F64
    v: F64


@dataclass(frozen=True, slots=True)
class _Fit:
    """Agreement of the replay at one rank, and the refined estimate it ended with (more columns than the rank)."""

    rank: int
    agreement: float
    within_ulp: float
    factors: _Factors

    @property
    def gap(self) -> float:
        s = self.factors.s
        if self.rank == 0 or self.rank > len(s) or s[self.rank - 1] <= 0:
            return 0.0
        # Columns that float64 cannot tell from zero were dropped.
        below = s[self.rank] if self.rank < len(s) else 0.0
        return float(s[self.rank - 1] / max(below, s[0] * RESOLVED))


@dataclass(frozen=True, slots=True)
class _Claim:
    """A fit, the agreement one rank lower, and whether that rank is proved to be the smallest."""

    fit: _Fit
    below: float
    holds: bool


@dataclass(slots=True)
class _Swept:
    """What a pass over X found: Y = X V, Z = Y^T X, and counts of entries."""

    y: F64
    z: F64
    moved: int = 0
    exact: int = 0
    near: int = 0


class _OutOfRange(Exception):
    """The squares of the values leave even float64's range."""


class _Pair:
    """The two matrices, visited by blocks of rows, in the narrowest arithmetic that rounds like float64 would."""

    def __init__(self, reference: Array, changed: Array, dtype: str, check: Callable[[], None]) -> None:
        self.reference, self.changed, self.dtype, self.check = reference, changed, dtype, check
        self.shape = reference.shape
        self.work: type[np.floating[Any]] = np.float64 if dtype in ("F32", "F64") else np.float32
        self.step = 2.0 ** -FLOATS[dtype].mantissa
        self.slack = F64_SLACK if dtype == "F64" else 0

    def sweep(self, model: _Factors | None, basis: F64, twice: bool = False) -> tuple[_Factors, _Swept]:
        """One pass: factors of the projection of X = M + (D - D_hat) on X V, for V = ``basis`` (n, k), and the counts.

        ``twice`` replays Q(W + Q(M)) instead of Q(W + M).
        """
        m, n = self.shape
        rows = max(1, BLOCK // max(n, 1))
        v = np.ascontiguousarray(basis.T, self.work)
        scaled = None if model is None else ((model.u * model.s).astype(self.work), model.v.T.astype(self.work))
        total = _Swept(np.empty((m, len(v))), np.zeros((len(v), n)))
        with np.errstate(all="ignore"):
            for start in range(0, m, rows):
                self.check()
                self._block(total, slice(start, min(start + rows, m)), scaled, v, twice)
        if not np.isfinite(total.z).all() or (total.moved and not total.z.any()):
            if self.work is np.float64:
                raise _OutOfRange
            # Squares of these values leave float32's range.
            self.work = np.float64
            return self.sweep(model, basis, twice)
        return _project(total.y, total.z.T), total

    def _block(self, swept: _Swept, rows: slice, scaled: tuple[Array, Array] | None, v: Array, twice: bool) -> None:
        old, new = self.reference[rows], self.changed[rows]
        if old.dtype != new.dtype:
            old = narrow(widen(old), self.dtype)
        shape = new.shape
        before = widen_into(old, _SCRATCH("before", shape, self.work))
        after = widen_into(new, _SCRATCH("after", shape, self.work))
        if scaled is None:
            x = np.subtract(after, before, out=after)
            if not np.isfinite(x.sum()):
                x[~np.isfinite(x)] = 0.0
            swept.moved += int(np.count_nonzero(np.not_equal(x, 0, out=_SCRATCH("touched", shape, bool))))
        else:
            x = np.matmul(scaled[0][rows], scaled[1], out=_SCRATCH("x", shape, self.work))
            if twice:
                round_to(x, new.dtype, _SCRATCH)
            touched = np.not_equal(after, before, out=_SCRATCH("touched", shape, bool))
            result = np.add(before, x, out=before)
            round_to(result, new.dtype, _SCRATCH)
            step = np.subtract(after, result, out=before)
            self._count(swept, touched, step, after)
            x += step
        y = x @ v.T
        swept.z += y.T @ x
        swept.y[rows] = y

    def _count(self, swept: _Swept, touched: npt.NDArray[np.bool_], step: Array, after: Array) -> None:
        """Count by ``step``, what the replay misses ``after`` by; ``touched`` are the entries that the file moved."""
        off = _SCRATCH("off", step.shape, bool)
        if not np.isfinite(step.sum()):
            # What cannot be compared (not finite, or rounded past the largest value) stays as the estimate has it.
            usable = np.isfinite(step, out=off)
            touched &= usable
            step[~usable] = 0.0
        missed = np.abs(step, out=_SCRATCH("missed", step.shape, self.work))
        unit = np.abs(after, out=after)
        unit *= self.step

        def past(units: int) -> int:
            return int(np.count_nonzero(np.greater(missed, unit if units == 1 else unit * units, out=off)))

        inexact, far = past(self.slack), past(self.slack + 1)
        # An entry that only the replay moves is one that it misses, so that those moved by either are touched or missed.
        moved = int(np.count_nonzero(np.logical_or(touched, np.not_equal(missed, 0, out=off), out=off)))
        swept.moved, swept.exact, swept.near = swept.moved + moved, swept.exact + moved - inexact, swept.near + moved - far


def _project(y: F64, z: F64) -> _Factors:
    """Factors of Q Q^T X for Q = orth(Y), from Y = X V (m, k) and X^T Y (n, k)."""
    p, sigma, qt = np.linalg.svd(y, full_matrices=False)
    keep = sigma > max(float(sigma.max(initial=0.0)), np.finfo(np.float64).tiny) * RESOLVED
    p, sigma, qt = p[:, keep], sigma[keep], qt[keep]
    if not keep.any():
        return _Factors(np.zeros((len(y), 0)), np.zeros(0), np.zeros((len(z), 0)))
    w, s, ht = np.linalg.svd((z @ qt.T) / sigma, full_matrices=False)
    return _Factors(p @ ht.T, s, w)


def _cut(factors: _Factors, rank: int) -> _Factors:
    return _Factors(factors.u[:, :rank], factors.s[:rank], factors.v[:, :rank])


class _Search:
    """The search for the smallest rank: look where the spectrum breaks, replay there, and check one rank less."""

    def __init__(self, pair: _Pair, seed: int) -> None:
        self.pair = pair
        self.rng = np.random.default_rng([seed, *pair.shape])
        self.fits: dict[int, _Fit] = {}

    def run(self, limit: int, hint: int | None = None) -> Replay:
        m, n = self.pair.shape
        if hint is not None and 0 < hint <= limit:
            start, moved = self._start(min(hint + OVERSAMPLE, m, n))
            if _rank_limit((m, n), hint, moved) == hint and (claim := self._claim(hint, start)).holds:
                return self._result(hint, claim.fit, moved, claim.below)
            self.fits.clear()
        columns = min(limit + OVERSAMPLE, m, n)
        start, moved = self._start(columns)
        limit = _rank_limit((m, n), min(limit, len(start.s)), moved)
        if limit == 0 or moved == 0:
            return self._result(None, _Fit(0, 0.0, 0.0, start), moved)
        best = _Claim(_Fit(0, 0.0, 0.0, start), 0.0, False)
        # Where the spectrum of D breaks first; the dead zone may hide the break of a weak change, but not that of the refined
        # estimate at the largest rank, which either reproduces the change or shows that it is of no such rank.
        for ranks in (_initial_breaks, _refined_breaks):
            claims = [self._claim(rank, start) for rank in ranks(self, limit, start)]
            accepted = [claim for claim in claims if claim.holds]
            if accepted:
                best = min(accepted, key=lambda claim: claim.fit.rank)
                break
            best = max([best, *claims], key=lambda claim: claim.fit.agreement)
        return self._result(best.fit.rank if best.holds else None, best.fit, moved, best.below)

    def _claim(self, rank: int, start: _Factors) -> _Claim:
        fit = self.fit(rank, start)
        if fit.gap >= SHEER and self._large_change(fit):
            return _Claim(fit, self.fit(rank - 1, start).agreement if rank > 1 else 0.0, True)
        if fit.agreement < AGREE or fit.within_ulp < WITHIN_ULP or fit.gap < BREAK:
            return _Claim(fit, 0.0, False)
        below = self.fit(rank - 1, start).agreement if rank > 1 else 0.0
        if below < DISAGREE and fit.gap >= STEEP:
            return _Claim(fit, below, True)
        gained = fit.agreement - below
        knee = gained >= GAIN and self.fit(rank + 1, start).agreement - fit.agreement <= KNEE * gained
        return _Claim(fit, below, knee and (fit.gap >= GAP or below < DISAGREE))

    def _large_change(self, fit: _Fit) -> bool:
        """Whether what the replay misses is explained by M having been rounded itself, which shows once M is as large as W.

        A 16-bit M is a product rounded once, and replays as Q(W + Q(M)). In float32 the order of M's own sums, which is not known,
        moves its last bits; but there a residual of any other origin would leave almost no entry exact.
        """
        if fit.agreement >= AGREE:
            return False
        if self.pair.work is np.float64:
            return fit.agreement >= ROUNDED_SUMS
        _, swept = self.pair.sweep(_cut(fit.factors, fit.rank), fit.factors.v, twice=True)
        return swept.exact >= AGREE * max(1, swept.moved)

    def _start(self, columns: int) -> tuple[_Factors, int]:
        basis = self.rng.standard_normal((self.pair.shape[1], columns))
        factors, swept = self.pair.sweep(None, basis)
        if len(factors.s):
            factors, swept = self.pair.sweep(None, factors.v)
        return factors, swept.moved

    def fit(self, rank: int, start: _Factors) -> _Fit:
        if rank in self.fits:
            return self.fits[rank]
        factors = _cut(start, rank + OVERSAMPLE)
        best = _Fit(rank, -1.0, 0.0, factors)
        for left in range(PASSES, -1, -1):
            refined, swept = self.pair.sweep(_cut(factors, rank), factors.v)
            share = swept.exact / swept.moved if swept.moved else 0.0
            gained = share - max(best.agreement, 0.0)
            if share > best.agreement:
                best = _Fit(rank, share, swept.near / swept.moved if swept.moved else 0.0, factors)
            # Gains shrink from pass to pass: what cannot get there at the present rate does not get there.
            settled = gained < 0.002 or share > CONVINCED or (left < PASSES and share + left * gained < DISAGREE)
            if settled or share < HOPELESS or not len(refined.s):
                break
            factors = refined
        self.fits[rank] = best
        return best

    def _result(self, rank: int | None, fit: _Fit, moved: int, below: float = 0.0) -> Replay:
        tried = rank if rank is not None else min(max(fit.rank, 1), len(fit.factors.s))
        thin = _cut(fit.factors, tried)
        return Replay(rank, tried, max(fit.agreement, 0.0), below, fit.within_ulp, fit.gap, moved, thin.u, thin.s, thin.v)


def _breaks(s: F64, limit: int, count: int) -> list[int]:
    """The ranks 1..``limit`` after which the spectrum falls most steeply, steepest first, at most ``count``."""
    # Columns that float64 cannot tell from zero were dropped: the spectrum ends in a zero then.
    usable = np.append(s, 0.0)[: limit + 1]
    ratios = usable[:-1] / np.maximum(usable[1:], usable[0] * RESOLVED)
    return [int(rank) + 1 for rank in np.argsort(-ratios, kind="stable")[:count]]


def _initial_breaks(search: _Search, limit: int, start: _Factors) -> list[int]:
    return _breaks(start.s, limit, 2)


def _refined_breaks(search: _Search, limit: int, start: _Factors) -> list[int]:
    most = search.fit(limit, start)
    return [] if most.agreement < DISAGREE else sorted({*_breaks(most.factors.s, limit - 1, 3), limit})
