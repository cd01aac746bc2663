"""Which tensor of the reference a tensor is to be compared with, and the cheap part of comparing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard import Checkpoint, Target, TensorInfo, numpy_dtype
from modelguard_rome.names import FLOATS, bare

Array = NDArray[Any]
BLOCK = 1 << 22
"""Elements compared at a time."""


@dataclass(frozen=True)
class Pair:
    """One tensor on both sides. ``transposed`` says that the reference stores it the other way round."""

    checkpoint: Checkpoint
    tensor: TensorInfo
    reference_checkpoint: Checkpoint
    reference: TensorInfo
    transposed: bool

    def values(self) -> Array:
        """The scanned tensor."""
        return self.checkpoint.read(self.tensor.name)

    def reference_values(self, *, cast: bool = True) -> Array:
        """The reference in the scanned tensor's orientation and, with ``cast``, rounded to its dtype."""
        values = self.reference_checkpoint.read(self.reference.name)
        values = values.T if self.transposed else values
        if not cast or self.reference.dtype == self.tensor.dtype:
            return values
        with np.errstate(over="ignore"):
            return values.astype(numpy_dtype(self.tensor.dtype))

    def identical(self) -> bool:
        """Whether the scanned bytes are the reference's, possibly after a pure cast."""
        if not self.transposed and self.tensor.dtype == self.reference.dtype:
            ours = np.frombuffer(self.checkpoint.raw(self.tensor.name), np.uint8)
            theirs = np.frombuffer(self.reference_checkpoint.raw(self.reference.name), np.uint8)
            return all(np.array_equal(ours[at : at + BLOCK], theirs[at : at + BLOCK]) for at in range(0, len(ours), BLOCK))
        if self.tensor.dtype not in FLOATS or self.reference.dtype not in FLOATS:
            return False
        ours, theirs = np.ascontiguousarray(self.values()), np.ascontiguousarray(self.reference_values())
        return bool(np.array_equal(ours.view(np.uint8), theirs.view(np.uint8)))

    @property
    def comparable(self) -> bool:
        """Whether both sides are floating-point matrices (or stacks of them)."""
        return len(self.tensor.shape) in (2, 3) and {self.tensor.dtype, self.reference.dtype} <= FLOATS and self.tensor.size > 0


@dataclass(frozen=True)
class Pairing:
    """All pairs, in order of name, and the names of the scanned tensors that have no counterpart."""

    pairs: tuple[Pair, ...]
    unmatched: tuple[str, ...]


def pair_up(target: Target, reference: Target) -> Pairing:
    """Match by name (in the checkpoint of the same name first), else by the name without wrapper prefixes where that is unambiguous.

    Shapes must be equal or transposed.
    """
    own = {(checkpoint.name, tensor.name): (checkpoint, tensor) for checkpoint, tensor in reference.walk()}
    theirs = {name: entry for (_, name), entry in own.items()}
    counts = Counter(bare(name) for name in theirs)
    by_bare = {bare(name): entry for name, entry in theirs.items() if counts[bare(name)] == 1}
    pairs, unmatched = [], []
    for checkpoint, tensor in target.walk():
        entries = (own.get((checkpoint.name, tensor.name)), theirs.get(tensor.name), by_bare.get(bare(tensor.name)))
        found = next(_candidates(tensor, *entries), None)
        if found is None:
            unmatched.append(tensor.name)
        else:
            (other_checkpoint, other), transposed = found
            pairs.append(Pair(checkpoint, tensor, other_checkpoint, other, transposed))
    return Pairing(tuple(pairs), tuple(unmatched))


Entry = tuple[Checkpoint, TensorInfo]


def _candidates(tensor: TensorInfo, *entries: Entry | None) -> Iterator[tuple[Entry, bool]]:
    for entry in entries:
        if entry is not None and entry[1].shape == tensor.shape:
            yield entry, False
        elif entry is not None and len(tensor.shape) == 2 and entry[1].shape == tensor.shape[::-1]:
            yield entry, True
