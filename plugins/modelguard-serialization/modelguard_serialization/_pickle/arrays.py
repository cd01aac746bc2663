"""Arrays that joblib writes beside its pickle (``joblib/numpy_pickle.py``): where the bytes after a ``NumpyArrayWrapper`` end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from modelguard_serialization._pickle.arguments import counts
from modelguard_serialization._pickle.values import Call, Dict, Global, Value

_CODE = re.compile(r"[<>=|]?([?a-zA-Z])([0-9]{1,9})(?:\[.*\])?")


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """``size`` bytes follow, or a pickle of their own when it is None; ``padded`` says that a byte counts the bytes before them."""

    size: int | None
    padded: bool


def is_wrapper(value: Value) -> bool:
    return type(value) is Call and type(value.callee) is Global and value.callee.name == "NumpyArrayWrapper"


def dtype_size(value: Value) -> int | None:
    """Bytes of an element of a ``numpy.dtype`` call; 0 for objects, None when it does not say."""
    if not (type(value) is Call and type(value.callee) is Global and value.callee.path == "numpy.dtype"):
        return None
    if type(value.args) is not tuple or not value.args or type(value.args[0]) is not str:
        return None
    match = _CODE.fullmatch(value.args[0])
    if match is None:
        return None
    state = value.state
    if type(state) is tuple and len(state) > 7 and type(state[7]) is int and state[7] & 1:
        return 0  # NPY_ITEM_REFCOUNT: a structure that holds objects
    if match[1] == "O":
        return 0
    return int(match[2]) * (4 if match[1] == "U" else 1)


def place(state: Value) -> ArrayPlace | None:
    """What follows a wrapper with this state; None when it does not say."""
    if type(state) is not Dict:
        return None
    shape, size = counts(state.get("shape")), dtype_size(state.get("dtype"))
    if shape is None or size is None:
        return None
    return ArrayPlace(prod(shape) * size if size else None, state.get("numpy_array_alignment_bytes") is not None)
