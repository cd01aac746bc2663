"""A matrix and its counterpart in the reference, as whole arrays, and the cheap part of comparing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard import Checkpoint, Pairing, TensorInfo, match_tensors, numpy_dtype
from modelguard_rome._names import FLOATS

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


def pair_up(checkpoints: Sequence[Checkpoint], reference: Sequence[Checkpoint]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """All pairs of whole tensors in the order of the checkpoints, and the names of the scanned tensors without such a counterpart."""
    found: dict[tuple[int, str], Pairing] = {}
    for item in match_tensors(reference, checkpoints).pairs:
        # A fused, resized or shared counterpart is no matrix that an update of this one could be replayed on.
        if item.how != "tied" and item.after_view.whole and (item.before_view.whole or item.before_view.turned):
            found[id(item.after.checkpoint), item.after.tensor.name] = item
    pairs, unmatched = [], []
    for checkpoint in checkpoints:
        for tensor in checkpoint.tensors.values():
            match found.get((id(checkpoint), tensor.name)):
                case None:
                    unmatched.append(tensor.name)
                case item:
                    pairs.append(Pair(checkpoint, tensor, item.before.checkpoint, item.before.tensor, item.before_view.turned))
    return tuple(pairs), tuple(unmatched)
