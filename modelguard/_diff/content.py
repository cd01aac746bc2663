"""Finding counterparts by what tensors hold, where names do not help: exporters rename, transpose and share weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from modelguard._diff.grid import F64, Array, widen
from modelguard._diff.operand import Operand, open_operand, same_bytes
from modelguard._diff.pairing import TRANSPOSED, WHOLE, Pairing, Place

HEAD = 64
SAMPLE = 16
SIMILAR = 0.8
"""Correlation of samples from which tensors without a common name are taken to be the same one, changed."""
CANDIDATES = 128
"""Tensors of one shape that are compared each with each."""

Places = dict[str, Place]


def affinity(before: Operand, after: Operand) -> float:
    """Correlation of two equally shaped operands on a sample of rows and columns."""
    rows, columns = after.matrix.shape
    if not (before.viewable and after.viewable):
        return 0.0
    picked = np.ix_(_few(rows), _few(columns, 1024))
    left, right = _flat(before.matrix[picked]), _flat(after.matrix[picked])
    usable = np.isfinite(left) & np.isfinite(right)
    left, right = left[usable], right[usable]
    if left.size < 2:
        return 0.0
    if np.array_equal(left, right):
        return 1.0
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 and np.isfinite(scale) else 0.0


def rather_transposed(before: Place, after: Place) -> bool:
    """Whether a square matrix matches the transpose of its counterpart better than the counterpart itself."""
    left, right = open_operand(before.checkpoint, before.tensor), open_operand(after.checkpoint, after.tensor)
    turned = Operand(left.matrix.T, left.dtype, left.shape)
    return affinity(turned, right) > affinity(left, right) + 0.2


def by_bytes(old: Places, new: Places) -> Iterator[Pairing]:
    """Pair tensors that hold the same bytes, as they are or transposed; what is paired leaves ``old`` and ``new``."""
    heads: dict[tuple[object, ...], list[tuple[str, bool]]] = {}
    for name, place in old.items():
        operand = open_operand(place.checkpoint, place.tensor)
        heads.setdefault(_head(operand.matrix, operand, place), []).append((name, False))
        if len(place.shape) == 2 and operand.viewable:
            heads.setdefault(_head(operand.matrix.T, operand, place), []).append((name, True))
    for name in list(new):
        place = new[name]
        right = open_operand(place.checkpoint, place.tensor)
        for other, turned in heads.get(_head(right.matrix, right, place), []):
            if other not in old:
                continue
            left = open_operand(old[other].checkpoint, old[other].tensor)
            if same_bytes(left.matrix.T if turned else left.matrix, right.matrix):
                yield Pairing(name, old.pop(other), new.pop(name), "content", TRANSPOSED if turned else WHOLE)
                break


def by_similarity(old: Places, new: Places) -> Iterator[Pairing]:
    """Pair float tensors of one shape (or its transpose) whose samples correlate, best first."""
    scored: list[tuple[float, str, str, bool]] = []
    for shape in sorted({tuple(sorted(place.shape)) for place in new.values()}):
        olds = [name for name, place in old.items() if tuple(sorted(place.shape)) == shape]
        news = [name for name, place in new.items() if tuple(sorted(place.shape)) == shape]
        if not olds or max(len(olds), len(news)) > CANDIDATES or np.prod(shape) < HEAD:
            continue
        for mine in news:
            right = open_operand(new[mine].checkpoint, new[mine].tensor)
            for theirs in olds:
                left = open_operand(old[theirs].checkpoint, old[theirs].tensor)
                for turned in (False, True):
                    matrix = left.matrix.T if turned else left.matrix
                    if matrix.shape == right.matrix.shape and left.viewable and right.viewable and (not turned or len(shape) == 2):
                        scored.append((affinity(Operand(matrix, left.dtype, left.shape), right), mine, theirs, turned))
    for score, mine, theirs, turned in sorted(scored, key=lambda item: (-item[0], item[1:])):
        if score >= SIMILAR and mine in new and theirs in old:
            yield Pairing(mine, old.pop(theirs), new.pop(mine), "similar", TRANSPOSED if turned else WHOLE)


def copies(left_over: Mapping[str, Place], paired: Mapping[str, Place]) -> dict[str, str]:
    """For each left-over tensor that holds the same bytes as a paired one of its own side: the name of that one."""
    heads: dict[tuple[object, ...], list[str]] = {}
    for name, place in paired.items():
        heads.setdefault((place.tensor.dtype, place.tensor.byte_length), []).append(name)
    found: dict[str, str] = {}
    for name, place in left_over.items():
        if not place.tensor.byte_length:
            continue
        mine = open_operand(place.checkpoint, place.tensor)
        for other in heads.get((place.tensor.dtype, place.tensor.byte_length), []):
            theirs = open_operand(paired[other].checkpoint, paired[other].tensor)
            if not mine.viewable and place.shape != paired[other].shape:
                continue
            views = [view for view in (theirs.matrix, theirs.matrix.T) if view.shape == mine.matrix.shape]
            if any(same_bytes(mine.matrix[:1], view[:1]) and same_bytes(mine.matrix, view) for view in views):
                found[name] = other
                break
    return found


def exchanged(pairs: Sequence[Pairing]) -> dict[str, str]:
    """For each of ``pairs``, all changed, whose tensor holds the bytes that another has in the reference: that one's name there.

    A tensor of one value only (a bias of zeros) is nobody's in particular.
    """
    whole = [pair for pair in pairs if pair.whole]
    heads: dict[tuple[object, ...], list[Pairing]] = {}
    for pair in whole:
        operand = open_operand(pair.before.checkpoint, pair.before.tensor)
        heads.setdefault(_head(operand.matrix, operand, pair.before), []).append(pair)
    found: dict[str, str] = {}
    for pair in whole:
        mine = open_operand(pair.after.checkpoint, pair.after.tensor)
        for other in heads.get(_head(mine.matrix, mine, pair.after), []):
            theirs = open_operand(other.before.checkpoint, other.before.tensor)
            if other is not pair and not _flat_valued(mine.matrix) and same_bytes(theirs.matrix, mine.matrix):
                found[pair.name] = other.before.name
                break
    return found


def _flat_valued(matrix: Array) -> bool:
    start = matrix[:SAMPLE, :1024]
    return bool(start.size == 0 or (start == start[0, 0]).all())


def _few(count: int, most: int = SAMPLE) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _flat(values: Array) -> F64:
    return widen(np.ascontiguousarray(values)).reshape(-1)


def _head(matrix: Array, operand: Operand, place: Place) -> tuple[object, ...]:
    return place.tensor.dtype, matrix.shape if operand.viewable else place.shape, matrix[:1, :HEAD].tobytes(), matrix[:HEAD, :1].tobytes()
