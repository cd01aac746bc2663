"""A quantised tensor whose scales lie beside it as tensors of their own: what a layout says of it, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod

import numpy as np
import numpy.typing as npt

from modelguard.checkpoint import Checkpoint, TensorInfo

F32 = npt.NDArray[np.float32]
Tensors = Mapping[str, TensorInfo]
Read = tuple[F32, F32, int]
"""Values, the scale of every group of consecutive entries, flat, and how many entries a group has."""
Shape = tuple[int, ...]

FLOATS = ("F32", "F16", "BF16", "F64")
FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Two bits of exponent and one of mantissa (OCP Microscaling Formats specification 1.0, section 5.3.3)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One quantised tensor: the values' name and shape, the tensors it takes, and what kind it is.

    ``read`` gives the values (float32, of ``shape``) and the scale of every ``group`` consecutive entries, flat. The levels lie between
    ``low`` and ``high`` scales, ``step`` of them apart; the rest is as in :class:`~modelguard.Quantization`.
    """

    name: str
    shape: Shape
    parts: tuple[str, ...]
    type: str
    bits: int
    read: Callable[[Checkpoint], Read]
    low: float
    high: float
    step: float = 1.0
    relative: float = 0.0
    reach: float = 0.5
    together: bool = False
    inputs: bool = False


def floats(checkpoint: Checkpoint, name: str) -> F32:
    """A tensor as float32."""
    return checkpoint.read(name).astype(np.float32)


def blocks(scale: Shape, shape: Shape) -> Shape | None:
    """How many entries along each axis share one of ``scale``; None where it is of no shape that scales of such a tensor have.

    One for all, one a row (or a slice), one for each of equal parts of a row, or one for squares whose sides are a power of two, of
    which the last may be cut off (DeepSeek-V3's ``weight_block_size`` is 128 x 128).
    """
    if prod(scale) == 1:
        return shape
    if scale == shape[:1]:
        scale = (*scale, *(1 for _ in shape[1:]))
    if len(scale) != len(shape) or 0 in scale or 0 in shape:
        return None
    found: list[int] = []
    for count, size in zip(scale, shape, strict=True):
        square = 1 << (-(-size // count) - 1).bit_length()
        if count in (1, size) or (size % count == 0 and found and all(block == 1 for block in found)):
            found.append(size // count)
        elif -(-size // square) == count:
            found.append(square)
        else:
            return None
    return tuple(found)


def spread(values: F32, scales: F32, block: Shape) -> Read:
    """``values`` times the scale of their block."""
    shape = values.shape
    each = scales.reshape([-(-size // length) for size, length in zip(shape, block, strict=True)])
    for axis, (size, length) in enumerate(zip(shape[:-1], block, strict=False)):
        each = np.repeat(each, length, axis=axis).take(range(size), axis=axis) if length > 1 else each
    group = gcd(block[-1], shape[-1])
    each = np.repeat(each, block[-1] // group, axis=-1)[..., : shape[-1] // group]
    with np.errstate(all="ignore"):
        out = (values.reshape(*shape[:-1], -1, group) * each[..., None]).reshape(shape)
    return out, np.ascontiguousarray(each).reshape(-1), group
