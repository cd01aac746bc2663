"""torch storages as pickles refer to them, and the dtypes of torch (``torch/storage.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modelguard_serialization._pickle.values import Global, Value

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
        "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
        "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128", "UntypedStorage": "U8", "_UntypedStorage": "U8",
        "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2",
        "QUInt2x4Storage": "quint2x4",
    }
)  # fmt: skip
"""The dtype of each storage class: the project's name of it, or torch's where the project has none."""

BY_TORCH: Mapping[str, str] = MappingProxyType(
    {
        "float32": "F32", "float": "F32", "float64": "F64", "double": "F64", "float16": "F16", "half": "F16", "bfloat16": "BF16",
        "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16", "int8": "I8", "uint8": "U8",
        "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64", "cfloat": "C64", "complex128": "C128",
        "cdouble": "C128", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
        "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    }
)  # fmt: skip
"""torch's dtypes by their name in ``torch``."""

WIDTHS: Mapping[str, int] = MappingProxyType(
    {
        "F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1,
        "C64": 8, "C128": 16, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
        "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
    }
)  # fmt: skip
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage as a pickle refers to it: its key, its dtype (see :data:`DTYPES`), how many elements it has, from which one on."""

    key: str
    dtype: str
    count: int
    offset: int = 0


def storage_of(pid: Value) -> StorageRef | None:
    """The storage that a persistent id stands for: ``("storage", class, key, location, elements[, view])``; or None."""
    if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or type(pid[1]) is not Global:
        return None
    dtype = DTYPES.get(pid[1].name) if pid[1].module in ("torch", "torch.cuda", "torch.storage") else None
    if dtype is None or type(pid[2]) is not str or type(pid[4]) is not int or pid[4] < 0:
        return None
    view = pid[5] if len(pid) > 5 else None
    if type(view) is tuple:  # legacy: (key, first element, elements) of a part of the storage
        if len(view) != 3 or not all(type(item) is int and item >= 0 for item in view[1:]) or view[1] + view[2] > pid[4]:
            return None
        return StorageRef(pid[2], dtype, view[2], view[1])
    return StorageRef(pid[2], dtype, pid[4])
