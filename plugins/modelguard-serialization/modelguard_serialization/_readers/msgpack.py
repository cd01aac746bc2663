"""MessagePack, as Flax saves parameters.

Sources: https://github.com/msgpack/msgpack/blob/master/spec.md; flax/serialization.py, ``_MsgpackExtType``.
"""

from __future__ import annotations

import struct

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._embedded import PICKLED
from modelguard_serialization._format_rules import CUSTOM_OP, METADATA_CODE
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_ARRAY, _COMPLEX, _SCALAR, _TIME = 1, 2, 3, -1
_KNOWN = frozenset({_ARRAY, _COMPLEX, _SCALAR, _TIME})
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LISTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class Msgpack(Reader):
    what = "MessagePack, as Flax writes"
    rules = (CUSTOM_OP, METADATA_CODE)
    format = "msgpack"

    def recognise(self, blob: Blob) -> bool:
        return blob.ending in (".msgpack", ".mpack")

    def read(self, blob: Blob, look: Look) -> None:
        data, at, done = blob.data, 0, 0
        while at < len(data):
            done += 1
            if done > limits.NODES * 5:
                raise NotReadError("has too many values")
            if done % 4096 == 0:
                look.check()
            at = self._value(data, at, blob, look)

    def _value(self, data: memoryview, at: int, blob: Blob, look: Look) -> int:
        """The position after the value at ``at``; of a list or mapping, after its head: what it holds follows, as values of their own."""
        mark = data[at]
        at += 1
        if mark <= 0x9F or mark >= 0xE0:  # small numbers, mappings and lists
            return at
        if mark <= 0xBF:
            return _ends(data, at + (mark & 31))
        if mark in _FIXED:
            return _ends(data, at + _FIXED[mark])
        if mark in _BYTES:
            length, at = _length(data, at, _BYTES[mark])
            end = _ends(data, at + length)
            if length < 1 << 20 and (match := PICKLED.search(data[at:end])):
                module, name = (part.decode("ascii", "replace") for part in match.groups() if part is not None)
                look.find(
                    "MG0338",
                    blob,
                    f"a value is a pickle that imports {module}.{name}",
                    severity=Severity.HIGH,
                    at=at,
                    key=f"{module}.{name}",
                )
            return end
        if mark in _LISTS:
            return _length(data, at, _LISTS[mark][0])[1]
        if mark in _EXT:
            length, at = _length(data, at, _EXT[mark])
        elif 0xD4 <= mark <= 0xD8:
            length = 1 << mark - 0xD4
        else:
            raise NotReadError(f"is no MessagePack (byte {at - 1})")
        code = struct.unpack("b", bytes(data[at : at + 1]) or b"\0")[0]
        if code not in _KNOWN:
            look.find(
                "MG0333",
                blob,
                f"a value is of the extension type {code}, which neither MessagePack nor Flax defines",
                severity=Severity.MEDIUM,
                key=str(code),
            )
        return _ends(data, at + 1 + length)


def _length(data: memoryview, at: int, width: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + width], "big"), _ends(data, at + width)


def _ends(data: memoryview, at: int) -> int:
    if at > len(data):
        raise NotReadError("is MessagePack that is cut off")
    return at
