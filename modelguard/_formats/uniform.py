"""A safetensors header as writers write it, read in a few passes of compiled code.

Read one token at a time, a header of 200 000 tensors took 6 to 14 times as long as ``json.loads`` of it: 50 calls of Python functions an
entry, most of them to skip white space that is not there. Nearly every header is uniform, though: its entries have dtype, shape and
data_offsets in this order, it has no escapes, and ``__metadata__`` comes first if at all. One pattern cuts such a header into columns, and
each check is made on a whole column, or once for every kind of tensor (dtype and shape).

What is read here passes every check of :mod:`modelguard._formats.safetensors`, whose numbers stand below. Anything else, valid or not, is
left to the reader there, which names what is wrong.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import repeat
from operator import sub

from modelguard._formats.elements import MAX_RANK, MAX_TENSORS, size_in_bits
from modelguard._formats.names import MAX_NAME
from modelguard.checkpoint import TensorInfo


def _pattern(text: bytes) -> re.Pattern[bytes]:
    """``text`` compiled, with N a whole number and a space any white space that JSON allows. All is possessive, so matching is linear."""
    return re.compile(text.replace(b"N", rb"(?:0|[1-9][0-9]{0,19}+)").replace(b" ", rb"[ \t\n\r]*+"), re.DOTALL)


_ENTRY = _pattern(rb'"([^"\\\x00-\x1f]*+)" : \{ ("dtype" : "[A-Z0-9_]++" , "shape" : \[[\d,\s]*+\]) , "data_offsets" : \[ (N) , (N) \] \}')
_STEP = 5
"""Parts that a split yields for an entry: what comes before it, then its name, its kind (dtype and shape), begin and end."""
_KIND = _pattern(rb'"dtype" : "([A-Z0-9_]++)" , "shape" : \[ ((?:N(?: , N)*+)?+) \]')
_BEFORE = _pattern(rb'\{ (?:"__metadata__" : (\{.*\}) , )?')
_BETWEEN = _pattern(rb" , ")
_AFTER = _pattern(rb" \} ")

_Kind = tuple[str, tuple[int, ...], int]


def read_uniform(
    path: str, header: bytes, start: int, available: int, dtypes: frozenset[str]
) -> tuple[dict[str, TensorInfo], bytes | None] | None:
    """The tensors of a uniform header sorted by name, and its ``__metadata__`` as it stands, which the caller still has to read.

    The data begins at byte ``start`` of the file ``path`` and has ``available`` bytes. None when the header is not uniform, is empty, or
    fails any check.
    """
    parts = _ENTRY.split(header, MAX_TENSORS)  # (10)
    before = _BEFORE.fullmatch(parts[0])
    # What was cut out are entries, so the header has the grammar if what is left over are commas between two braces. (4) (6) (8)
    if len(parts) == 1 or before is None or not _AFTER.fullmatch(parts[-1]):
        return None
    if not all(_BETWEEN.fullmatch(text) for text in set(parts[_STEP:-1:_STEP])):
        return None
    try:
        names = b"\n".join(parts[1::_STEP]).decode().split("\n")  # (5); a line break is no part of a name
    except UnicodeDecodeError:
        return None
    if len(set(names)) < len(names) or "__metadata__" in names or max(map(len, names)) > MAX_NAME:  # (7) (10)
        return None
    kinds = _kinds(parts[2::_STEP], dtypes)
    if kinds is None:
        return None
    lengths = [length for _, _, length in kinds]
    begins, ends = list(map(int, parts[3::_STEP])), list(map(int, parts[4::_STEP]))
    if list(map(sub, ends, begins)) != lengths or not _tiled(begins, ends, available):  # (8) (12)
        return None
    columns = (
        ("name", names),
        ("dtype", [dtype for dtype, _, _ in kinds]),
        ("shape", [shape for _, shape, _ in kinds]),
        ("file", repeat(path)),
        ("byte_offset", [start + begin for begin in begins]),
        ("byte_length", lengths),
    )
    infos = list(map(TensorInfo.__new__, repeat(TensorInfo, len(names))))
    for field, column in columns:  # half the time of calling TensorInfo, which sets its frozen fields one call of Python at a time
        deque(map(getattr(TensorInfo, field).__set__, infos, column), maxlen=0)
    tensors = dict(zip(names, infos, strict=True))
    if (ordered := sorted(names)) != names:
        tensors = {name: tensors[name] for name in ordered}
    return tensors, before[1]


def _kinds(texts: list[bytes], dtypes: frozenset[str]) -> list[_Kind] | None:
    """Dtype, shape and length in bytes, for every one of ``texts``; None when a check fails."""
    known: dict[bytes, _Kind] = {}
    for text in set(texts):
        match = _KIND.fullmatch(text)
        if match is None or (dtype := match[1].decode()) not in dtypes or match[2].count(b",") >= MAX_RANK:  # (8) (9) (10)
            return None
        shape = tuple(map(int, match[2].split(b","))) if match[2] else ()
        bits = size_in_bits(dtype, shape)
        if bits is None or bits % 8 or max(shape, default=0) >= 2**64:  # (8) (11)
            return None
        known[text] = (dtype, shape, bits // 8)
    return [known[text] for text in texts]


def _tiled(begins: list[int], ends: list[int], available: int) -> bool:
    """Whether the spans lie one after another and fill the ``available`` bytes exactly. (12) (13) (14)"""
    if [0, *ends] == [*begins, available]:
        return True
    spans = sorted(zip(begins, ends, strict=True))
    return [0, *(end for _, end in spans)] == [*(begin for begin, _ in spans), available]
