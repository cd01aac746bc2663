"""The grid of values a dtype can hold: widening to float64, rounding back, and distance in units of the last place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from modelguard.checkpoint import DTYPE_BITS, numpy_dtype

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

BF16 = numpy_dtype("BF16")
_WORD: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


@dataclass(frozen=True, slots=True)
class FloatGrid:
    """Layout of one floating-point dtype: a sign bit, then ``exponent`` bits, then ``mantissa`` bits from the top down.

    ``word`` is the unsigned integer of the same width, which bit patterns are looked at through.
    """

    dtype: str
    exponent: int
    mantissa: int

    @property
    def word(self) -> type[np.unsignedinteger[Any]]:
        return _WORD[DTYPE_BITS[self.dtype]]

    def field(self, bit: int) -> str:
        """The name of the part of the number that ``bit`` (0 is the lowest) belongs to."""
        return "mantissa" if bit < self.mantissa else "exponent" if bit < self.mantissa + self.exponent else "sign"


FLOATS = {
    grid.dtype: grid
    for grid in (
        FloatGrid("F64", 11, 52),
        FloatGrid("F32", 8, 23),
        FloatGrid("F16", 5, 10),
        FloatGrid("BF16", 8, 7),
        FloatGrid("F8_E4M3", 4, 3),
        FloatGrid("F8_E5M2", 5, 2),
        FloatGrid("F8_E4M3FNUZ", 4, 3),
        FloatGrid("F8_E5M2FNUZ", 5, 2),
    )
}
"""The signed floating-point dtypes with at least a byte per element, by dtype name."""


def word_of(dtype: str) -> np.dtype[Any]:
    """The unsigned integer dtype as wide as one element of ``dtype`` (a byte for sub-byte and complex dtypes)."""
    return np.dtype(_WORD.get(DTYPE_BITS[dtype], np.uint8))


def widen(values: Array) -> F64:
    """``values`` as float64, exactly for every float dtype of this module. Non-finite values stay what they are."""
    if values.dtype == np.float64:
        return values
    if values.dtype == BF16:
        # A bfloat16 is the upper half of a float32; the integer route is several times faster than ml_dtypes' cast.
        return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def narrow(values: F64, dtype: str) -> Array:
    """``values`` rounded to the nearest element of ``dtype``, ties to even, the way a cast in torch or numpy rounds."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "BF16":
            bits = values.astype(np.float32).view(np.uint32)
            special = np.isnan(values)
            rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
            if special.any():
                rounded[special] = 0x7FC0
            return rounded.astype(np.uint16).view(BF16)
        return values.astype(numpy_dtype(dtype))


def spacing(values: F64, dtype: str) -> F64:
    """At least the distance from each of ``values`` to the next number that ``dtype`` has, in float64."""
    tiny = float(ml_dtypes.finfo(numpy_dtype(dtype)).smallest_subnormal)  # type: ignore[no-untyped-call]
    return np.asarray(np.abs(values) * 2.0 ** -FLOATS[dtype].mantissa + tiny)
