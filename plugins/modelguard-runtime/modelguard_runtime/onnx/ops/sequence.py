"""Sequences of tensors, carried as Python lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelguard_runtime.onnx.ops.base import single
from modelguard_runtime.onnx.ops.table import op

Place = int | Sequence[int]


def _place(position: Place | None, default: int) -> int:
    return default if position is None else single(position)


@op("SequenceEmpty", since=11, pure=False)
def sequence_empty(*, dtype: int = 1) -> list[Tensor]:
    return []


@op("SequenceConstruct", since=11, pure=False)
def sequence_construct(*xs: Tensor) -> list[Tensor]:
    return list(xs)


@op("SequenceAt", since=11, ints=("position",), pure=False)
def sequence_at(sequence: list[Tensor], position: Place) -> Tensor:
    return sequence[_place(position, 0)]


@op("SequenceInsert", since=11, ints=("position",), pure=False)
def sequence_insert(sequence: list[Tensor], x: Tensor, position: Place | None = None) -> list[Tensor]:
    place = _place(position, len(sequence))
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], x, *sequence[place:]]


@op("SequenceErase", since=11, ints=("position",), pure=False)
def sequence_erase(sequence: list[Tensor], position: Place | None = None) -> list[Tensor]:
    place = _place(position, -1) % len(sequence)
    return [*sequence[:place], *sequence[place + 1 :]]


@op("SequenceLength", since=11, pure=False)
def sequence_length(sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence))


@op("ConcatFromSequence", since=11, pure=False)
def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@op("SplitToSequence", since=11, ints=("split",), pure=False)
def split_to_sequence(x: Tensor, split: Place | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """In pieces of size 1 (dropping the axis unless ``keepdims``), of one size, or of the sizes listed."""
    if split is None:
        return list(torch.split(x, 1, axis) if keepdims else x.unbind(axis))
    return list(torch.split(x, split if isinstance(split, int) else list(split), axis))
