"""Arrays that a thread uses again from block to block: allocating them anew would cost a page fault for every 4 KiB."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.grid import BF16, Array


class Scratch(threading.local):
    """Named arrays of the thread that asks; each holds whatever was last left in it."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """The array ``name``, allocated again only where ``shape`` or ``dtype`` differs from last time."""
        found = self.arrays.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = self.arrays[name] = np.empty(shape, dtype)
        return found


def widen_into(values: Array, out: Array) -> Array:
    """``values`` written to ``out``, a float array at least as wide; without the interpreter lock where numpy and bfloat16 allow it."""
    if values.dtype == BF16 and out.dtype == np.float32:
        # A bfloat16 is the upper half of a float32; the cast of ml_dtypes would hold the lock.
        bits: Any = out.view(np.uint32)
        np.copyto(bits, values.view(np.uint16))
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(out, values, casting="unsafe")
    return out


def round_to(values: Array, dtype: np.dtype[Any], scratch: Scratch) -> None:
    """Round float ``values`` in place to the nearest element of the float ``dtype``, ties to even."""
    if dtype == values.dtype:
        return
    if dtype == BF16 and values.dtype == np.float32:
        # NaNs made by arithmetic have no low bits that could carry into their exponent.
        bits: Any = values.view(np.uint32)
        step = np.right_shift(bits, 16, out=scratch("round", values.shape, np.uint32))
        step &= 1
        step += 0x7FFF
        bits += step
        bits &= 0xFFFF0000
    else:
        narrow = scratch("narrow", values.shape, dtype)
        np.copyto(narrow, values, casting="unsafe")
        np.copyto(values, narrow, casting="unsafe")
