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
    """Whether a value is an instance of joblib's class, however it was made."""
    if type(value) is not Call or type(value.callee) is not Global:
        return False
    callee = value.callee
    if callee.module == "copyreg" and type(value.args) is tuple and value.args and type(value.args[0]) is Global:
        callee = value.args[0]
    return callee.name.rpartition(".")[2] == "NumpyArrayWrapper"


def dtype_size(value: Value) -> int | None:
    """Bytes of an element of a ``numpy.dtype`` call; 0 for objects, None when it does not say."""
    if not (type(value) is Call and type(value.callee) is Global and value.callee.path == "numpy.dtype"):
        return None
    if type(value.args) is not tuple or not value.args or type(value.args[0]) is not str:
        return None
    match = _CODE.fullmatch(value.args[0])
    if match is None:
        return None
    width = int(match[2]) * (4 if match[1] == "U" else 1)
    if (state := value.state) is not None:
        # Version 3 and 4 of what numpy.dtype.__setstate__ takes, which for texts and structures may change the size.
        if type(state) is not tuple or len(state) not in (8, 9) or type(state[5]) is not int or type(state[7]) is not int:
            return None
        if state[5] not in (-1, width):
            return None
        if state[7] & 1:
            return 0  # NPY_ITEM_REFCOUNT: a structure that holds objects
    return 0 if match[1] == "O" else width


def place(state: Value) -> ArrayPlace | None:
    """What follows a wrapper with this state; None when it does not say."""
    if type(state) is not Dict:
        return None
    shape, size = counts(state.get("shape")), dtype_size(state.get("dtype"))
    if shape is None or size is None:
        return None
    return ArrayPlace(prod(shape) * size if size else None, state.get("numpy_array_alignment_bytes") is not None)
