"""Arrow and Parquet tables: data, but for a type that an old loader unpickles. What the columns hold is nobody's business here."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._format_rules import METADATA_CODE
from modelguard_serialization._readers._archive import put
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_PICKLED = b"arrow.py_extension_type"
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(?c[a-z_]")
_WORDS = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


class Tables(Reader):
    """Sources: https://arrow.apache.org/docs/format/Columnar.html, "IPC File Format" and "Extension Types";
    https://parquet.apache.org/docs/file-format/, whose ``ARROW:schema`` is an Arrow schema in base64."""

    what = "a table"
    rules = (METADATA_CODE,)

    def said(self, blob: Blob) -> str:
        return blob.kind.what

    def recognise(self, blob: Blob) -> bool:
        return blob.kind.what in ("a Parquet table", "an Arrow table")

    def read(self, blob: Blob, look: Look) -> None:
        schemas = _parquet(blob) if blob.start[:4] == b"PAR1" else _arrow(blob)
        for schema in schemas:
            look.check()
            if _PICKLED not in schema:
                continue
            said = "its schema has a type that pyarrow before 14.0.1 unpickles when it opens the table; do not open it with that"
            look.find(METADATA_CODE.id, blob, said, severity=Severity.HIGH, key=_PICKLED.decode())
            for number, value in enumerate(_values(schema)):
                put(look, blob, f"(type {number})", value)


def _parquet(blob: Blob) -> Iterator[bytes]:
    for word in _WORDS.findall(_part(blob, len(blob.data) - 8, 4)):
        if len(word) % 4 == 0:
            try:
                yield b64decode(word)
            except binascii.Error:
                continue


def _arrow(blob: Blob) -> Iterator[bytes]:
    """The schema stands in the first message and in the footer, and a loader may read either."""
    yield _part(blob, len(blob.data) - 10, 6)
    at = 12 if bytes(blob.data[8:12]) == b"\xff\xff\xff\xff" else 8
    size = int.from_bytes(blob.data[at : at + 4], "little")
    yield bytes(blob.data[at + 4 : at + 4 + min(size, limits.DOCUMENT)])


def _part(blob: Blob, at: int, magic: int) -> bytes:
    """The footer, whose length stands at ``at``, before the last ``magic`` bytes."""
    size = int.from_bytes(blob.data[at : len(blob.data) - magic], "little")
    if size > limits.DOCUMENT:
        raise NotReadError(f"has a footer of {size} bytes, more than the {limits.DOCUMENT} that are read")
    return bytes(blob.data[at - size : at])


def _values(schema: bytes) -> Iterator[bytes]:
    """Strings of a flatbuffer (their length in four bytes before them) that begin and end as a pickle does."""
    for hit in _PICKLE.finditer(schema):
        size = int.from_bytes(schema[max(0, hit.start() - 4) : hit.start()], "little")
        value = schema[hit.start() : hit.start() + size]
        if len(value) == size and value.endswith(b"."):
            yield value
