"""Safetensors headers that are read as a whole: as fast as promised, and never to another result than token by token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelguard import FormatError
from modelguard._formats import safetensors
from modelguard._formats.safetensors import _Reader, read_header
from modelguard._formats.uniform import read_uniform
from modelguard.testing.checkpoints import safetensors_bytes


def entry(name: str, begin: int, end: int, dtype: str = "U8", shape: str | None = None) -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":[{end - begin if shape is None else shape}],"data_offsets":[{begin},{end}]}}'


def test_200_000_tensors_are_no_limit_and_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What their header costs is in benchmarks/headers.py: no more than twice ``json.loads`` of it."""
    count, read = 200_000, []
    for name in ("_string", "_space", "_take", "_more"):
        monkeypatch.setattr(_Reader, name, lambda *_, name=name: read.append(name))
    header = f"{{{','.join([entry(f'expert.{index}', index, index + 1) for index in range(count)])}}}".encode()
    tensors, _ = read_header(memoryview(safetensors_bytes(header, bytes(count))), "m.safetensors")
    assert len(tensors) == count
    assert list(tensors) == sorted(tensors)
    assert tensors["expert.199943"].byte_offset == 8 + len(header) + 199943
    assert not read, "every entry costs a few dozen calls of these"


def seen(data: bytes) -> object:
    """What is made of a file, or what is said of it."""
    try:
        tensors, metadata = read_header(memoryview(data), "m")
    except FormatError as error:
        return type(error), error.rule, str(error)
    return list(tensors.items()), metadata


ENTRIES = ",".join([entry("b", 2, 6, "F32", "1,1"), entry("ä", 0, 2, "F4", "4"), entry("", 6, 6, shape="0")])
UNIFORM = f'{{"__metadata__":{{"format":"pt","a":"b\\n"}},{ENTRIES}}}'
TOKENS = [
    '"', "{", "}", "[", "]", ",", ":", " ", "\n", "\t", "\x0b", "\x00", "\\", "\\u0062", "\u202e", "ä", "{}", "[]", "1,1", "true", "null",
    '"b"', '"a"', '"__metadata__"', '"__metadata__":{},', '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"F4"', '"F6_E2M3"', '"f32"',
    '"U128"',
    "-0", "00", "01", "1.0", "1e0", "0", "1", "2", "3", "6", "18446744073709551616", "99999999999999999999",
    entry("b", 2, 6), entry("c", 6, 6),
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4), st.sampled_from(TOKENS)), min_size=1, max_size=3), st.integers(5, 7))
def test_a_header_read_as_a_whole_means_what_it_means_read_by_token(edits: list[tuple[int, int, str]], size: int) -> None:
    text = UNIFORM
    pieces = [match.span() for match in re.finditer(r'"[^"]*"|[0-9]+|.', text)]
    for at, taken, put in edits:
        at %= len(pieces)
        begin, end = pieces[at][0], pieces[min(at + taken, len(pieces)) - 1][1] if taken else pieces[at][0]
        text = text[:begin] + put + text[end:]
        pieces = [match.span() for match in re.finditer(r'"[^"]*"|[0-9]+|.', text, re.DOTALL)]
    data = safetensors_bytes(text.encode(), bytes(size))
    together = seen(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "read_uniform", lambda *_: None)
        assert seen(data) == together


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (UNIFORM, 6),
        (UNIFORM.replace(":", " : ").replace(",", " ,\n").replace("{", "{ ").replace("}", " }") + " \n", 6),
        ("{" + entry("b", 2, 6) + "," + entry("a", 0, 2) + "}", 6),
        ("{" + entry("", 0, 6) + "}", 6),
    ],
)
def test_what_writers_write_is_read_as_a_whole(header: str, size: int) -> None:
    found = read_uniform("m", header.encode(), 0, size, safetensors.DTYPES)
    assert found is not None
    assert list(found[0]) == sorted(found[0])
