"""Arrow and Parquet tables: data, but for a type that an old pyarrow unpickles."""

from __future__ import annotations

import pickle
import struct
from base64 import b64encode

import pytest
from modelguard_serialization.testing import look_through

from modelguard import Severity


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("open('/tmp/never', 'w')",)


def text(value: bytes) -> bytes:
    """A string or vector as a flatbuffer holds it."""
    return struct.pack("<I", len(value)) + value + b"\0"


def schema(name: bytes, pickled: bytes) -> bytes:
    keys = (b"ARROW:extension:name", name, b"ARROW:extension:metadata", pickled)
    return b"\x10\0\0\0\0\0\x0a\0" + b"".join(map(text, keys))


def arrow(inside: bytes, footer: bytes) -> bytes:
    message = struct.pack("<iI", -1, len(inside)) + inside
    return b"ARROW1\0\0" + message + bytes(16) + footer + struct.pack("<I", len(footer)) + b"ARROW1"


def parquet(inside: bytes) -> bytes:
    footer = b"\x15\x02\x19\x4c\x48\x06schema" + b"\x18\x0cARROW:schema\x18\x20" + b64encode(inside + bytes(-len(inside) % 3)) + b"\x00"
    return b"PAR1" + bytes(8) + footer + struct.pack("<I", len(footer)) + b"PAR1"


# https://nvd.nist.gov/vuln/detail/CVE-2023-47248
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["first message", "footer", "parquet"])
def test_a_type_that_is_unpickled_when_a_table_is_opened(form: str, protocol: int) -> None:
    hostile = schema(b"arrow.py_extension_type", pickle.dumps(Runs(), protocol))
    plain = schema(b"arrow.uuid", b"")
    data = {"first message": arrow(hostile, plain), "footer": arrow(plain, hostile), "parquet": parquet(hostile)}[form]
    look, by = look_through("train.parquet" if form == "parquet" else "train.arrow", data)
    found = {item.rule: item.severity for item in look.findings}
    assert found["MG0338"] is Severity.HIGH
    assert "MG0310" in found, "what is unpickled is judged as any pickle is"
    assert by[0].what == "a table"


@pytest.mark.parametrize("data", [arrow(schema(b"arrow.uuid", b""), schema(b"arrow.uuid", b"")), parquet(schema(b"arrow.uuid", b"16"))])
def test_a_table_with_types_of_other_kinds_has_nothing_to_tell(data: bytes) -> None:
    look, _ = look_through("train.parquet" if data[:4] == b"PAR1" else "train.arrow", data)
    assert (look.findings, look.missed) == ([], [])


def test_a_footer_too_large_to_be_read_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard_serialization.limits.DOCUMENT", 64)
    look, _ = look_through("train.parquet", parquet(schema(b"arrow.uuid", bytes(100))))
    assert "footer" in look.missed[0]
