"""NumPy's ``.npy`` files: a header that is a Python literal, then the elements, or a pickle when they are objects (NEP 1)."""

from __future__ import annotations

import ast
import re
from math import prod
from typing import Any

from modelguard_serialization._pickle.rules import RULES
from modelguard_serialization._pickle.streams import Streams
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 16
MAX_BRACKETS = 4096
MAX_FIELDS = 4096
_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQuefdgFDGcmMSUVaO])([0-9]{0,9})(?:\[[^\]]{0,40}\])?")
_LONG = re.compile(r"(?<=[0-9])L")


class NumpyReader(Reader):
    what = "a NumPy array"
    rules = RULES
    format = "numpy"

    def recognise(self, blob: Blob) -> bool:
        return bytes(blob.data[:6]) == MAGIC

    def read(self, blob: Blob, look: Look) -> None:
        at, size = 0, len(blob.data)
        # numpy.save appends to a file that is open: arrays may follow each other.
        while at < size:
            look.check()
            if bytes(blob.data[at : at + 6]) != MAGIC:
                raise NotReadError(f"the {size - at} bytes after the array belong to no array")
            begin, header = _header(blob.data, at)
            width, objects = _width(header.get("descr"))
            shape = header.get("shape")
            if not isinstance(shape, tuple) or not all(type(item) is int and 0 <= item < 1 << 48 for item in shape):
                raise NotReadError(f"the shape of the array at {at} is no shape")
            if objects:
                Streams(blob, look, begin).rest()
                return
            at = begin + prod(shape) * width
            if at > size:
                raise NotReadError(f"the array should end at byte {at}, and the file has {size}")


def _header(data: memoryview, at: int) -> tuple[int, dict[str, Any]]:
    """Where the elements of the array at ``at`` begin, and its header."""
    major = data[at + 6] if len(data) > at + 8 else 0
    if major not in (1, 2, 3):
        raise NotReadError(f"the array at {at} has a format version that does not exist")
    start = at + (10 if major == 1 else 12)
    length = int.from_bytes(data[at + 8 : start], "little")
    if length > MAX_HEADER or start + length > len(data):
        raise NotReadError(f"the header of the array at {at} has {length} bytes, past the limit of {MAX_HEADER} or the end of the file")
    raw = bytes(data[start : start + length])
    if sum(raw.count(char) for char in (b"(", b"[", b"{")) > MAX_BRACKETS:
        raise NotReadError(f"the header of the array at {at} has more than {MAX_BRACKETS} brackets")
    try:
        text = raw.decode("utf-8" if major == 3 else "latin-1").strip()
        try:
            header = ast.literal_eval(text)
        except SyntaxError:
            header = ast.literal_eval(_LONG.sub("", text))  # written by Python 2
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise NotReadError(f"the header of the array at {at} is no Python literal") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise NotReadError(f"the header of the array at {at} has not the keys it must have")
    return start + length, header


def _width(descr: Any, depth: int = 0) -> tuple[int, bool]:
    """Bytes of an element of a dtype as headers describe it, and whether it holds objects."""
    if isinstance(descr, str):
        match = _CODE.fullmatch(descr)
        if match is None:
            raise NotReadError(f"an array has a dtype that does not exist: {descr[:40]!r}")
        if match[1] == "O":
            return 8, True
        number = int(match[2]) if match[2] else 1
        return number * (4 if match[1] == "U" else 1), False
    if isinstance(descr, list) and depth < 16 and len(descr) <= MAX_FIELDS:
        total, objects = 0, False
        for field in descr:
            if not isinstance(field, tuple) or len(field) not in (2, 3):
                break
            width, inner = _width(field[1], depth + 1)
            shape = field[2] if len(field) == 3 else ()
            shape = shape if isinstance(shape, tuple) else (shape,)
            if not all(type(item) is int and 0 <= item < 1 << 32 for item in shape):
                break
            total, objects = total + width * prod(shape), objects or inner
        else:
            return total, objects
    if isinstance(descr, tuple) and len(descr) == 2 and depth < 16 and isinstance(descr[1], tuple):
        width, objects = _width(descr[0], depth + 1)
        if all(type(item) is int and 0 <= item < 1 << 32 for item in descr[1]):
            return width * prod(descr[1]), objects
    raise NotReadError("an array has a dtype that is described in no known way")
