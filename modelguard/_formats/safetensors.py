"""safetensors: a strict reader of our own, because the format's parsers do not agree on what they let through.

A file is 8 bytes of header length N (unsigned, little-endian), N bytes of JSON, and the tensors' bytes. Source: the format's README
(https://github.com/huggingface/safetensors#format) and, for what is rejected and which dtypes exist, its reference parser in Rust,
0.8.0. Nothing here is laxer than that parser; duplicate keys, unknown keys and leading white space, which it lets through, are refused.

The checks, numbered as in the code. Each is made before anything is allocated from the number it checks:

 (1) the file has the 8 bytes of the header length
 (2) the header is at most 100 MB
 (3) the header ends within the file
 (4) the header begins with ``{``
 (5) every string is valid UTF-8 with valid escapes
 (6) the header is one JSON object of this format's shape, followed by nothing but white space
 (7) no key occurs twice, in the header, in ``__metadata__``, or in an entry
 (8) an entry has exactly ``dtype``, ``shape`` and ``data_offsets``: a string, and lists of whole numbers from 0 to 2^64 - 1
 (9) the dtype is one the format lists
(10) names are at most 4096 bytes long, tensors at most a million, dimensions at most 32
(11) shape times dtype fits 64 bits and is a whole number of bytes
(12) the offsets span exactly that many bytes, within the file
(13) no two tensors overlap
(14) no byte lies between two tensors, or after the last one
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from modelguard import _limits
from modelguard._formats.elements import MAX_RANK, MAX_TENSORS, as_array, size_in_bits
from modelguard._formats.mapped import MappedFile
from modelguard._formats.names import MAX_NAME, checkpoint_name, deceptive_names, shown
from modelguard._formats.uniform import read_uniform
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, Format, FormatProblem, TensorInfo
from modelguard.errors import FormatError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_HEADER = _limits.HEADER

DTYPES = frozenset(
    {
        "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
        "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
    }
)  # fmt: skip
"""The dtypes of the format, as its parser 0.8.0 lists them."""

_KEYS = ("dtype", "shape", "data_offsets")
_BLANK = frozenset({b" ", b"\t", b"\n", b"\r"})
_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"([^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+)"')
_SIZES = re.compile(rb"\[[ \t\n\r]*+((?:0|[1-9][0-9]{0,19}+)(?:[ \t\n\r]*+,[ \t\n\r]*+(?:0|[1-9][0-9]{0,19}+))*+)?+[ \t\n\r]*+\]")
_AGAIN = "download or export it again, and do not load it as it is"


class SafetensorsFormat(Format):
    id = "safetensors"
    extensions = (".safetensors",)

    def recognise(self, head: bytes, size: int) -> bool:
        return len(head) > 8 and int.from_bytes(head[:8], "little") <= size - 8 and head[8:].lstrip(b" \t\r\n").startswith(b"{")

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[SafetensorsCheckpoint, tuple[FormatProblem, ...]]:
        view = file.map()
        tensors, metadata = read_header(view, file.path)
        checkpoint = SafetensorsCheckpoint(MappedFile(file, len(view)), tensors, metadata)
        return checkpoint, tuple(deceptive_names(file.path, tensors))


class SafetensorsCheckpoint(Checkpoint):
    """The tensors of one safetensors file."""

    format = "safetensors"

    def __init__(self, mapped: MappedFile, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.name = checkpoint_name(mapped.file.path, SafetensorsFormat.extensions)
        self.files = (mapped.file.path,)
        self._mapped = mapped
        self._tensors = MappingProxyType(dict(tensors))
        self._metadata = MappingProxyType(dict(metadata))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def raw(self, name: str) -> memoryview:
        info = self._tensors[name]
        assert info.byte_offset is not None
        return self._mapped.slice(info.byte_offset, info.byte_length)

    def read(self, name: str) -> npt.NDArray[Any]:
        info = self._tensors[name]
        return as_array(self.raw(name), info.dtype, info.shape)


def read_header(view: memoryview, path: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Check a whole file's header; returns its tensors sorted by name and its metadata.

    Raises :class:`FormatError` or :class:`LimitError` naming the check that failed and where.
    """
    if len(view) < 8:  # (1)
        raise FormatError(path, f"has {len(view)} bytes, too few for the header length of a safetensors file", _AGAIN)
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER:  # (2)
        raise LimitError(path, f"claims a header of {length} bytes, and the format allows {MAX_HEADER}", _AGAIN, rule="MG0104")
    if length > len(view) - 8:  # (3)
        raise FormatError(path, f"is truncated: the header should have {length} bytes, and {len(view) - 8} follow", _AGAIN)
    header = bytes(view[8 : 8 + length])
    if not header.startswith(b"{"):  # (4)
        raise FormatError(path, f"its header begins with {header[:1]!r} and must begin with '{{'", _AGAIN)
    start = 8 + length
    if (found := _uniform(path, header, start, len(view) - start)) is not None:
        return found
    entries, metadata = _Reader(path, header).read()
    _check_layout(path, entries, len(view) - start)
    tensors = {
        name: TensorInfo(name, dtype, shape, path, start + begin, end - begin)
        for name, (dtype, shape, begin, end) in sorted(entries.items())
    }
    return tensors, metadata


def _uniform(path: str, header: bytes, start: int, available: int) -> tuple[dict[str, TensorInfo], dict[str, str]] | None:
    """The same, much faster, if the header passes every check and is of the form that nearly all have; else None."""
    if (found := read_uniform(path, header, start, available, DTYPES)) is None:
        return None
    tensors, metadata = found
    if metadata is None:
        return tensors, {}
    try:
        return tensors, _Reader(path, metadata).metadata()
    except FormatError:  # its place is one in the header
        return None


_Entry = tuple[str, tuple[int, ...], int, int]


def _check_layout(path: str, entries: Mapping[str, _Entry], available: int) -> None:
    """That the tensors tile the ``available`` bytes after the header exactly."""
    position, previous = 0, ""
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        bits = size_in_bits(dtype, shape)
        cause = ""
        if bits is None:  # (11)
            cause = f"the size of {dtype} {_brief(shape)} overflows 64 bits"
        elif bits % 8:  # (11)
            cause = f"{dtype} {_brief(shape)} takes {bits} bits, which is not a whole number of bytes"
        elif end - begin != bits // 8:  # (12)
            cause = f"its offsets [{begin}, {end}] span {end - begin} bytes, and {dtype} {_brief(shape)} takes {bits // 8}"
        elif end > available:  # (12)
            cause = f"it ends at byte {end} of the data, which has {available}: the file is truncated"
        elif begin < position:  # (13)
            cause = f"its bytes from {begin} overlap those of {shown(previous)}, which end at {position}"
        if cause:
            raise FormatError(f"{path}, tensor {shown(name)}", cause, _AGAIN, rule="MG0105")
        if begin > position:  # (14)
            thing = f"{path}, tensor {shown(name)}"
            raise FormatError(thing, f"{begin - position} bytes before it, from {position}, belong to no tensor", _AGAIN, rule="MG0106")
        position, previous = end, name
    if position < available:  # (14)
        raise FormatError(path, f"the last {available - position} bytes, after the last tensor, belong to no tensor", _AGAIN, rule="MG0106")


class _Reader:
    """Reads the one grammar a header can have. It does not nest, so no input can make it recurse or build what is not asked for."""

    def __init__(self, path: str, header: bytes) -> None:
        self._path = path
        self._header = header
        self._at = 0
        self._tensor: str | None = None
        """Whose entry is being read, for messages."""

    def read(self) -> tuple[dict[str, _Entry], dict[str, str]]:
        entries: dict[str, _Entry] = {}
        metadata: dict[str, str] | None = None
        self._open("the header")
        while self._more(entries or metadata is not None):
            name = self._key(entries, "the header")
            if name == "__metadata__":
                if metadata is not None:
                    self._twice(name, "the header")
                metadata = self._strings()
            else:
                if len(entries) >= MAX_TENSORS:  # (10)
                    self._limit(f"the header lists more than {MAX_TENSORS} tensors")
                self._tensor = name
                entries[name] = self._entry()
                self._tensor = None
        self._end()
        return entries, metadata or {}

    def metadata(self) -> dict[str, str]:
        """The strings of a ``__metadata__`` that is read by itself."""
        found = self._strings()
        self._end()
        return found

    def _entry(self) -> _Entry:
        found: dict[str, Any] = {}
        self._open("the entry")
        while self._more(found):
            key = self._key(found, "the entry")
            if key not in _KEYS:  # (8)
                self._fail(f"the entry has the key {shown(key)}, and only dtype, shape and data_offsets may be there")
            found[key] = self._dtype() if key == "dtype" else self._sizes(key)
        if len(found) < len(_KEYS):  # (8)
            self._fail(f"the entry lacks {', '.join(key for key in _KEYS if key not in found)}")
        offsets = found["data_offsets"]
        if len(offsets) != 2 or offsets[1] < offsets[0]:  # (8)
            self._fail(f"data_offsets must be two numbers, the second not below the first, and are {_brief(offsets)}", "MG0105")
        return found["dtype"], found["shape"], offsets[0], offsets[1]

    def _strings(self) -> dict[str, str]:
        found: dict[str, str] = {}
        self._open("__metadata__")
        while self._more(found):
            key = self._key(found, "__metadata__")
            found[key] = self._string("a value of __metadata__")
        return found

    def _dtype(self) -> str:
        dtype = self._string("dtype")
        if dtype not in DTYPES:  # (9)
            self._fail(f"the format has no dtype {shown(dtype)}")
        return dtype

    def _sizes(self, what: str) -> tuple[int, ...]:
        match = _SIZES.match(self._header, self._at)
        if match is None:  # (8)
            self._fail(f"{what} must be a list of whole numbers from 0 to 2^64 - 1, and is {self._excerpt()}")
        body = match[1]
        if body is not None and body.count(b",") >= MAX_RANK:  # (10)
            self._limit(f"{what} lists {body.count(b',') + 1} numbers, and {MAX_RANK} dimensions are the limit")
        sizes = () if body is None else tuple(map(int, body.split(b",")))
        if sizes and max(sizes) >= 2**64:  # (8)
            self._fail(f"{what} must be a list of whole numbers from 0 to 2^64 - 1, and is {_brief(sizes)}")
        self._at = match.end()
        return sizes

    def _key(self, seen: Mapping[str, Any], where: str) -> str:
        key = self._string("a key")
        if len(key) > MAX_NAME:  # (10)
            self._limit(f"a key of {where} has {len(key)} characters, and {MAX_NAME} are the limit")
        if key in seen:  # (7)
            self._twice(key, where)
        self._take(b":")
        return key

    def _string(self, what: str) -> str:
        match = _STRING.match(self._header, self._at)
        if match is None:  # (6)
            self._fail(f"{what} must be a JSON string, and is {self._excerpt()}")
        try:  # (5)
            text: str = json.loads(match[0]) if b"\\" in match[1] else match[1].decode()
            text.encode()  # an escaped half of a surrogate pair is no character
        except ValueError:
            self._fail(f"{what} is not valid UTF-8")
        self._at = match.end()
        return text

    def _more(self, begun: object) -> bool:
        """Whether another member follows in the object being read; passes the comma before it, or the closing brace."""
        self._space()
        if self._header.startswith(b"}", self._at):
            self._at += 1
            return False
        if begun:
            self._take(b",")
        return True

    def _open(self, what: str) -> None:
        if not self._header.startswith(b"{", self._at):  # (6)
            self._fail(f"{what} must be an object, and is {self._excerpt()}")
        self._at += 1

    def _end(self) -> None:
        self._space()
        if self._at != len(self._header):  # (6)
            self._fail(f"after the header's object comes {self._excerpt()}, where only white space may be")

    def _take(self, char: bytes) -> None:
        self._space()
        if not self._header.startswith(char, self._at):  # (6)
            self._fail(f"{char.decode()!r} is missing before {self._excerpt()}")
        self._at += 1
        self._space()

    def _space(self) -> None:
        if self._header[self._at : self._at + 1] in _BLANK:
            match = _SPACE.match(self._header, self._at)
            assert match is not None
            self._at = match.end()

    def _excerpt(self) -> str:
        return repr(self._header[self._at : self._at + 24])[1:] if self._at < len(self._header) else "the end of the header"

    def _thing(self) -> str:
        tensor = f", tensor {shown(self._tensor)}" if self._tensor is not None else ""
        return f"{self._path}, header byte {self._at}{tensor}"

    def _twice(self, key: str, where: str) -> NoReturn:
        raise FormatError(
            self._thing(), f"{where} has the key {shown(key)} twice, so parsers disagree on what it holds", _AGAIN, rule="MG0107"
        )

    def _limit(self, cause: str) -> NoReturn:
        raise LimitError(self._thing(), cause, _AGAIN, rule="MG0104")

    def _fail(self, cause: str, rule: str = "MG0102") -> NoReturn:
        raise FormatError(self._thing(), cause, _AGAIN, rule=rule)


def _brief(sizes: tuple[int, ...]) -> str:
    return str(list(sizes)) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:8]))}, ... {len(sizes)} in all]"
