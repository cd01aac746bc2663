"""One side of a comparison: a tensor, or a part of one, seen as a matrix in its storage dtype without copying."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod

import numpy as np

from modelguard._diff.grid import Array
from modelguard.checkpoint import DTYPE_BITS, Checkpoint, TensorInfo, numpy_dtype

BLOCK = 1 << 18
"""Entries of strided views compared at a time."""
_COMPLEX = {"C64": "F32", "C128": "F64"}
_NO_VALUES = frozenset(name for name, bits in DTYPE_BITS.items() if bits < 8) | {"F8_E8M0"}


@dataclass(frozen=True, slots=True)
class Operand:
    """``matrix`` is a 2-D view, possibly strided, of elements of ``dtype``; a vector is one row.

    ``shape`` is the logical shape it stands for. Complex numbers are pairs of reals in the last axis; dtypes whose elements are
    narrower than a byte (or have no sign) are opaque: bytes, compared but not measured. ``stored`` is the dtype of both, else empty.
    """

    matrix: Array
    dtype: str
    shape: tuple[int, ...]
    stored: str = ""

    @property
    def opaque(self) -> bool:
        return self.dtype == "OPAQUE"

    @property
    def viewable(self) -> bool:
        """Whether every element is one entry of the matrix, so that it can be sliced and turned."""
        return not self.stored

    @property
    def entries(self) -> int:
        return int(self.matrix.size)


def open_operand(checkpoint: Checkpoint, tensor: TensorInfo) -> Operand:
    """The tensor as a matrix: the first axis is the rows, the others are the columns; vectors and scalars are one row."""
    raw = checkpoint.raw(tensor.name)
    if tensor.dtype in _NO_VALUES:
        return Operand(np.frombuffer(raw, np.uint8).reshape(1, -1), "OPAQUE", tensor.shape, tensor.dtype)
    flat: Array = np.frombuffer(raw, numpy_dtype(tensor.dtype)) if len(raw) else np.empty(0, numpy_dtype(tensor.dtype))
    shape, dtype = tensor.shape, tensor.dtype
    if dtype in _COMPLEX:
        dtype = _COMPLEX[dtype]
        flat, shape = flat.view(numpy_dtype(dtype)), (*shape, 2)
    if dtype == "BOOL":
        flat, dtype = flat.view(np.uint8), "U8"
    rows = shape[0] if len(shape) > 1 else 1
    stored = tensor.dtype if tensor.dtype in _COMPLEX else ""
    return Operand(flat.reshape(rows, prod(shape[1:]) if len(shape) > 1 else flat.size), dtype, shape, stored)


def same_bytes(left: Array, right: Array) -> bool:
    """Whether two equally shaped views hold the same bytes, at the speed of memory and without the interpreter lock."""
    if left.nbytes != right.nbytes:
        return False
    if not (left.flags.c_contiguous and right.flags.c_contiguous):
        word = np.dtype(f"u{left.dtype.itemsize}")
        rows = max(1, BLOCK // max(1, left[:1].size))
        parts = (slice(start, start + rows) for start in range(0, len(left), rows))
        return all(np.array_equal(left[part].view(word), right[part].view(word)) for part in parts)
    if left.nbytes == 0:
        return True
    return int(_memcmp(left.ctypes.data, right.ctypes.data, left.nbytes)) == 0


def _load_memcmp() -> ctypes._NamedFuncPointer:
    library = ctypes.CDLL("msvcrt" if hasattr(ctypes, "WinDLL") else None)
    function = library.memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_int
    return function


_memcmp = _load_memcmp()
