"""What was done to one tensor: the streaming statistics first, a probe where they only raise a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelguard._diff import levels, probe
from modelguard._diff.grid import FLOATS
from modelguard._diff.operand import Operand
from modelguard._diff.replay import Replay, replay_rank
from modelguard._diff.stream import Statistics, Sums

KINDS = (
    "identical", "cast", "quantized", "pruned", "scaled", "low-rank", "row-edit", "bit-flips", "low-bit-payload", "permuted",
    "dense", "unrelated",
)  # fmt: skip

FLIPS_AT_MOST = 64
FLIPS_SHARE = 1e-4
SPARSE = 0.05
"""Share of rows (or columns) up to which a change counts as an edit of rows."""
LOW_BITS = {"F64": 32, "F32": 16, "F16": 5, "BF16": 4, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}
"""Lowest bits of each dtype that can carry a payload without changing what the model does (at most two thirds of the mantissa)."""
PAYLOAD_LEAST = 24
"""Changed entries from which "no carry ever left the low bits" cannot be chance: an additive update carries every second time."""
UNRELATED = 0.25
"""Correlation of W and W' under which W' does not come from W: independently trained weights of real models reach 0.16."""


ERASED = 0.5
"""What rounding may lose, of the norm or of the entries, and still be a cast or a quantisation: beyond that most of W is gone."""


@dataclass(frozen=True, slots=True)
class Class:
    """One of :data:`KINDS`, the exact rank when it is ``low-rank``, and the numbers that support it (JSON-safe)."""

    kind: str
    rank: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    replay: Replay | None = None


def classify(
    before: Operand,
    after: Operand,
    statistics: Statistics,
    max_rank: int = 64,
    check: Callable[[], None] = lambda: None,
) -> Class:
    """The class of a pair whose statistics have been taken. ``check`` as for :func:`replay_rank`."""
    sums = statistics.sums
    if sums.changed == 0:
        return Class("identical") if before.dtype == after.dtype else _cast(before, after, "", check)
    if after.opaque:
        return Class("dense", evidence={"note": "elements of this dtype are compared as bytes only"})
    for rule in (_bit_flips, _low_bits):
        if (found := rule(after, statistics)) is not None:
            # A round trip through a narrower dtype also stays in the low bits, and so does a vector of ones times a factor.
            payload = found.kind == "low-bit-payload"
            through = probe.cast_round_trip(before, after, check) if payload else None
            scale = probe.scaling(before, after, check) if payload and through is None else None
            return _scaled(scale) if scale is not None else found if through is None else _cast(before, after, through, check)
    if through := probe.cast_round_trip(before, after, check):
        return _cast(before, after, through, check)
    # Where every changed entry became zero D is -W there, so W.D + D.D vanishes.
    if abs(sums.wd + sums.dd) <= 1e-4 * sums.dd and (zeros := probe.pruning(before, after, check)) is not None:
        return Class("pruned", evidence={"zeros_before": zeros[0], "zeros_after": zeros[1]})
    if abs(2 * sums.wd + sums.dd) <= 1e-5 * sums.ww and probe.permutation(before, after, check):
        return Class("permuted")
    if (rows := _sparse(before, after, statistics, max_rank, check)) is not None:
        return rows
    if (scale := probe.scaling(before, after, check)) is not None:
        return _scaled(scale)
    if relative_norm(sums) <= ERASED and (grid := levels.quantisation(before, after, check)) is not None:
        return Class("quantized", evidence={"bits": grid.bits, "group": grid.group, "scheme": grid.scheme, "agreement": grid.agreement})
    if statistics.rows is not None and sums.entries >= 256 and abs(correlation(sums)) < UNRELATED and relative_norm(sums) > 0.5:
        return Class("unrelated", evidence={"correlation": correlation(sums)})
    replay = probe.low_rank(before, after, statistics, max_rank, check) if statistics.rows is not None else None
    if replay is not None and replay.rank is not None:
        return _ranked(replay)
    return Class("dense", evidence={} if replay is None else {"replay_agreement": replay.agreement, "replay_rank_tried": replay.tried})


def relative_norm(sums: Sums) -> float:
    """||D|| / ||W|| (infinite norms and an all-zero reference give the largest finite answer that makes sense: 0 or 1e308)."""
    if sums.ww > 0:
        return float(min((sums.dd / sums.ww) ** 0.5, 1e308))
    return 0.0 if sums.dd == 0 else 1e308


def cosine(sums: Sums) -> float:
    """cos(W, D)."""
    scale = (sums.ww**0.5) * (sums.dd**0.5)
    return float(np.clip(sums.wd / scale, -1, 1)) if scale > 0 and np.isfinite(scale) else 0.0


def correlation(sums: Sums) -> float:
    """Pearson correlation of W and W', over finite entries."""
    n = max(1, sums.entries)
    # Scaled by the two norms first: squares of huge values would overflow.
    w_norm, after_norm = sums.ww**0.5, max(sums.ww + 2 * sums.wd + sums.dd, 0.0) ** 0.5
    if not (0 < w_norm < 1e300 and 0 < after_norm < 1e300):
        return 0.0
    w_mean, after_mean = sums.w_sum / w_norm, (sums.w_sum + sums.d_sum) / after_norm
    dot = (sums.ww + sums.wd) / w_norm / after_norm
    w_var, after_var = 1 - w_mean**2 / n, 1 - after_mean**2 / n
    return (
        float(np.clip((dot - w_mean * after_mean / n) / (w_var * after_var) ** 0.5, -1, 1)) if w_var > 1e-12 and after_var > 1e-12 else 0.0
    )


def kurtosis(sums: Sums) -> float:
    """Fourth moment of the changed entries over their squared second: 1.8 for uniform rounding errors, 3 for Gaussian ones."""
    return float(sums.changed * (sums.d4 / sums.dd) / sums.dd) if 1e-150 < sums.dd < 1e150 else 0.0


def _cast(before: Operand, after: Operand, through: str, check: Callable[[], None]) -> Class:
    """The class of a tensor that is the reference rounded to its own dtype, or ``through`` a narrower one and back."""
    evidence = {"from": before.dtype, "to": after.dtype} | ({"through": through} if through else {})
    old, new = FLOATS.get(before.dtype), FLOATS[through or after.dtype] if after.dtype in FLOATS else None
    if old is None or new is None or old.exponent <= new.exponent or (lost := probe.erased(before, after, check)) <= ERASED:
        return Class("cast", evidence=evidence)
    if (zeros := probe.pruning(before, after, check)) is not None:
        return Class("pruned", evidence={"zeros_before": zeros[0], "zeros_after": zeros[1]})
    return Class("dense", evidence=evidence | {"lost": lost})


def _scaled(scale: probe.Scaling) -> Class:
    return Class("scaled", evidence={"axis": scale.axis, "factors": list(scale.factors), "agreement": scale.agreement})


def _ranked(replay: Replay) -> Class:
    evidence = {
        "agreement": replay.agreement,
        "agreement_below": replay.agreement_below,
        "within_ulp": replay.within_ulp,
        "spectral_gap": min(replay.gap, 1e9),
        "singular_values": [float(value) for value in replay.s[:8]],
    }
    return Class("low-rank", replay.rank, evidence, replay)


def _bit_flips(after: Operand, statistics: Statistics) -> Class | None:
    sums = statistics.sums
    few = max(4, min(FLIPS_AT_MOST, sums.entries // 20), FLIPS_SHARE * sums.entries)
    if sums.changed > few or sums.examined < sums.changed:
        return None
    if sums.single_bit < 0.9 * sums.changed:
        return None
    grid = FLOATS.get(after.dtype)
    high = max(bit for _, bit in statistics.positions).bit_length() - 1
    # A few entries that moved by one grid step look like flips of the lowest bit.
    if grid is not None and high < grid.mantissa - 3 and sums.changed < 8:
        return None
    flips = [{"entry": at, "bits": [bit for bit in range(64) if pattern >> bit & 1]} for at, pattern in statistics.positions]
    fields: dict[str, int] = {}
    for _, pattern in statistics.positions:
        name = grid.field(pattern.bit_length() - 1) if grid is not None else "integer"
        fields[name] = fields.get(name, 0) + 1
    return Class("bit-flips", evidence={"flips": flips, "fields": fields, "single_bit": sums.single_bit})


def _low_bits(after: Operand, statistics: Statistics) -> Class | None:
    sums = statistics.sums
    highest = sums.xor.bit_length() - 1
    if sums.changed < PAYLOAD_LEAST or highest >= LOW_BITS.get(after.dtype, 1 if not after.opaque else 0):
        return None
    # Of b payload bits the highest changes in half of the entries and more than one entry in six for text; grid steps of an
    # ordinary update thin out towards the high bits instead.
    share = float(sums.top_bits[highest] / max(1, sums.examined))
    if share < 1 / 6:
        return None
    return Class(
        "low-bit-payload",
        evidence={"highest_bit": highest, "share_at_highest_bit": share, "capacity_bytes": sums.changed * (highest + 1) // 8},
    )


def _sparse(before: Operand, after: Operand, statistics: Statistics, max_rank: int, check: Callable[[], None]) -> Class | None:
    sums = statistics.sums
    if statistics.rows is None or statistics.columns is None:
        if sums.changed > max(1, int(SPARSE * sums.entries)) or after.entries < 4:
            return None
        return Class("row-edit", evidence={"axis": "entry", "count": sums.changed, "indices": [at for at, _ in statistics.positions]})
    for axis, marks in (("row", statistics.rows), ("column", statistics.columns)):
        count = int(np.count_nonzero(marks))
        if count > max(1, int(SPARSE * len(marks))) or len(marks) < 4:
            continue
        touched = np.ix_(statistics.rows, statistics.columns)
        if min(np.count_nonzero(statistics.rows), np.count_nonzero(statistics.columns)) >= 4 and after.dtype in FLOATS:
            # A low-rank edit whose key is sparse touches few columns too, but all of them with multiples of the same vector.
            old, new = before.matrix[touched], after.matrix[touched]
            replay = replay_rank(old, new, after.dtype, max_rank, check=check)
            if replay.rank is not None and 2 * replay.rank <= min(new.shape):
                return _ranked(replay)
        return Class("row-edit", evidence={"axis": axis, "count": count, "indices": [int(at) for at in np.flatnonzero(marks)[:64]]})
    return None
