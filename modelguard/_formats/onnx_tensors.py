"""One TensorProto: what it declares, where its values lie, and that the two agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from modelguard._formats.elements import MAX_RANK, size_in_bits
from modelguard._formats.external import Neighbours
from modelguard._formats.names import shown
from modelguard._formats.onnx_schema import Messages
from modelguard._formats.protobuf import LEN, Field, Kind, Wire
from modelguard.artifact import ArtifactFile
from modelguard.checkpoint import DTYPE_BITS
from modelguard.errors import FormatError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

STRING = 8
DATA_TYPES: Mapping[int, str] = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32", 13: "U64",
    14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 21: "U4", 22: "I4",
    23: "F4", 24: "F8_E8M0", 25: "U2", 26: "I2", 27: "F6_E2M3", 28: "F6_E3M2",
}  # fmt: skip
"""TensorProto.DataType, by the names that checkpoints use."""

_TYPED: Mapping[str, tuple[int, Kind]] = {
    "float_data": (4, "fixed32"),
    "int32_data": (5, "varint"),
    "int64_data": (7, "varint"),
    "double_data": (10, "fixed64"),
    "uint64_data": (11, "varint"),
}
_FIELD_OF: Mapping[str, str] = {
    "F32": "float_data", "C64": "float_data", "F64": "double_data", "C128": "double_data",
    "I64": "int64_data", "U32": "uint64_data", "U64": "uint64_data",
}  # fmt: skip
"""The typed field a dtype is stored in, where it is not ``int32_data``."""
_EXPORT = "export the model again, and do not load it as it is"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Values in a repeated scalar field ``number`` of the message in ``[begin, end)``, each between ``low`` and ``high``."""

    begin: int
    end: int
    number: int
    kind: Kind
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor's values: ``length`` bytes at ``offset`` of ``file``, or ``numbers``; neither when it has no elements."""

    dtype: str
    shape: tuple[int, ...]
    length: int
    file: ArtifactFile
    offset: int | None = None
    numbers: Numbers | None = None


@dataclass(slots=True)
class TensorFields:
    """The fields of a TensorProto as they are, nothing of it believed yet."""

    begin: int
    end: int
    name: str = ""
    title: Field | None = None
    """The field that ``name`` is read from."""
    code: int = 0
    location: int = 0
    raw: Field | None = None
    segment: bool = False
    typed: dict[str, Field | None] = field(default_factory=dict)
    """Typed data fields that hold something; the value is the field when it is the only one of its name."""
    external: list[Field] = field(default_factory=list)

    @classmethod
    def collect(cls, messages: Messages, begin: int, end: int, depth: int) -> TensorFields:
        found = cls(begin, end)
        for name, item in messages.fields("Tensor", begin, end, depth):
            if name == "name":
                found.name, found.title = messages.name(item), item
            elif name == "data_type":
                found.code = item.value
            elif name == "data_location":
                found.location = item.value
            elif name == "raw_data":
                found.raw = item
            elif name == "segment":
                found.segment = True
            elif name == "external_data":
                found.external.append(item)
            elif name in _TYPED and (item.wire != LEN or item.end > item.begin):
                found.typed[name] = None if name in found.typed or item.wire != LEN else item
        return found

    @property
    def is_text(self) -> bool:
        return self.code == STRING

    @property
    def is_external(self) -> bool:
        return self.location == 1


def dimensions(messages: Messages, begin: int, end: int, number: int, thing: str) -> tuple[int, ...]:
    """The repeated int64 field ``number`` as a shape."""
    shape: list[int] = []
    for block in messages.wire.numbers(begin, end, number, "varint"):
        if len(shape) + len(block) > MAX_RANK:
            raise LimitError(thing, f"it has more than {MAX_RANK} dimensions", _EXPORT, rule="MG0104")
        shape.extend(block.tolist())
    if any(size >= 2**63 for size in shape):
        raise FormatError(
            thing, f"its shape has the negative dimension {next(size for size in shape if size >= 2**63) - 2**64}", _EXPORT, rule="MG0105"
        )
    return tuple(shape)


def locate(messages: Messages, tensor: TensorFields, thing: str, file: ArtifactFile, neighbours: Neighbours | None) -> Stored:
    """Where the values are, after checking that they are exactly what dims and data_type declare.

    ``neighbours`` may be None where the tensor holds its values itself. Raises :class:`FormatError` or :class:`LimitError`.
    """
    dtype = DATA_TYPES.get(tensor.code)
    if dtype is None:
        raise FormatError(thing, f"ONNX has no data_type {tensor.code}", _EXPORT)
    if tensor.segment:
        raise FormatError(thing, "it is one segment of a tensor, which no ONNX runtime supports", _EXPORT)
    shape = dimensions(messages, tensor.begin, tensor.end, 1, thing)
    bits = size_in_bits(dtype, shape)
    if bits is None:
        raise FormatError(thing, f"the size of {dtype} {list(shape)} overflows 64 bits", _EXPORT, rule="MG0105")
    length = -(-bits // 8)
    places = [*(["raw_data"] if tensor.raw else []), *sorted(tensor.typed), *(["external_data"] if tensor.is_external else [])]
    if len(places) > 1:
        raise FormatError(thing, f"it holds values in {' and '.join(places)}, so parsers disagree on which count", _EXPORT, rule="MG0107")
    if tensor.location not in (0, 1):
        raise FormatError(thing, f"ONNX has no data_location {tensor.location}", _EXPORT)
    if tensor.is_external:
        assert neighbours is not None
        where, offset = _external(messages, tensor, thing, length, neighbours)
        return Stored(dtype, shape, length, where, offset)
    if tensor.raw:
        _same(tensor.raw.end - tensor.raw.begin, length, "bytes", dtype, shape, thing)
        return Stored(dtype, shape, length, file, tensor.raw.begin)
    if not tensor.typed:
        _same(0, length, "bytes", dtype, shape, thing)
        return Stored(dtype, shape, 0, file)
    return _typed(messages, tensor, thing, file, dtype, shape, length)


def _typed(
    messages: Messages, tensor: TensorFields, thing: str, file: ArtifactFile, dtype: str, shape: tuple[int, ...], length: int
) -> Stored:
    name, only = next(iter(tensor.typed.items()))
    expected = _FIELD_OF.get(dtype, "int32_data")
    if name != expected:
        raise FormatError(thing, f"it holds {dtype} values in {name}, and they belong in {expected}", _EXPORT, rule="MG0105")
    number, kind = _TYPED[name]
    if kind != "varint" and only is not None:  # packed floats are the bytes themselves
        _same(only.end - only.begin, length, "bytes", dtype, shape, thing)
        return Stored(dtype, shape, length, file, only.begin)
    numbers = Numbers(tensor.begin, tensor.end, number, kind, *_bounds(dtype))
    held = sum(len(block) for block in _checked(messages.wire, numbers, thing))
    _same(held, _entries(dtype, shape, length), "values", dtype, shape, thing)
    return Stored(dtype, shape, length, file, numbers=numbers)


def _entries(dtype: str, shape: tuple[int, ...], length: int) -> int:
    """Entries of the typed field that a tensor of ``length`` bytes takes (onnx.proto, the comment of ``int32_data``)."""
    if dtype in ("F6_E2M3", "F6_E3M2"):
        return prod(shape)
    width = {"C64": 32, "C128": 64}.get(dtype, max(8, DTYPE_BITS[dtype]))
    return length * 8 // width


def _bounds(dtype: str) -> tuple[int, int]:
    """Lowest and highest value of an entry; floats stored as integers are their unsigned bits, narrow elements a packed byte."""
    if dtype in ("F32", "C64"):
        return 0, 2**32 - 1
    if dtype in ("F64", "C128", "U64"):
        return 0, 2**64 - 1
    if dtype == "BOOL":
        return 0, 1
    bits = DTYPE_BITS[dtype] if dtype.startswith("F6") else max(8, DTYPE_BITS[dtype])
    if dtype in ("I8", "I16", "I32", "I64"):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _checked(wire: Wire, numbers: Numbers, thing: str) -> Iterator[npt.NDArray[Any]]:
    """The entries in blocks. Raises :class:`FormatError` at one that is out of bounds."""
    import numpy as np

    for block in wire.numbers(numbers.begin, numbers.end, numbers.number, numbers.kind):
        signed = block.view(np.int64) if numbers.low < 0 else block
        if len(signed) and (int(signed.min()) < numbers.low or int(signed.max()) > numbers.high):
            cause = f"it holds a value outside {numbers.low}..{numbers.high}, which its data_type does not have"
            raise FormatError(thing, cause, _EXPORT, rule="MG0105")
        yield signed


def gather(wire: Wire, stored: Stored, thing: str) -> memoryview:
    """The bytes of a tensor kept in a typed field, as ``raw_data`` would hold them."""
    import numpy as np

    assert stored.numbers is not None
    widths = {"fixed32": 32, "fixed64": 64, "varint": max(8, DTYPE_BITS[stored.dtype])}
    width = widths[stored.numbers.kind]
    blocks = [block.astype(f"<u{width // 8}") for block in _checked(wire, stored.numbers, thing)]
    whole = np.concatenate(blocks) if blocks else np.zeros(0, np.uint8)
    if stored.dtype in ("F6_E2M3", "F6_E3M2"):
        whole = np.packbits(np.unpackbits(whole[:, None], axis=1, bitorder="little")[:, :6].reshape(-1), bitorder="little")
    return memoryview(whole.tobytes())


def _external(messages: Messages, tensor: TensorFields, thing: str, length: int, neighbours: Neighbours) -> tuple[ArtifactFile, int]:
    pairs = messages.pairs(tensor.external, f"external_data of {thing}")
    if hidden := next((key for key in pairs if key.startswith("__")), None):
        # onnx before 1.21 sets every key as an attribute of a Python object: https://nvd.nist.gov/vuln/detail/CVE-2026-34445
        raise FormatError(thing, f"its external_data has the key {shown(hidden)}, which is a name of Python's own", _EXPORT)
    if "location" not in pairs:
        raise FormatError(thing, "its external_data has no location", _EXPORT)
    where = neighbours.resolve(pairs["location"], thing)
    if where.path == messages.path:
        raise FormatError(thing, "its external data is the model file itself", _EXPORT, rule="MG0110")
    offset = _count(pairs.get("offset", "0"), "offset", thing)
    claimed = _count(pairs["length"], "length", thing) if "length" in pairs else where.size - offset
    if offset > where.size or claimed > where.size - offset:
        raise FormatError(
            thing, f"it lies at bytes {offset} to {offset + claimed} of {where.path}, which has {where.size}", _EXPORT, rule="MG0105"
        )
    if claimed != length:
        raise FormatError(thing, f"its external data has {claimed} bytes, and its shape and type take {length}", _EXPORT, rule="MG0105")
    return where, offset


def _count(text: str, what: str, thing: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise FormatError(thing, f"the {what} of its external data must be a whole number, and is {shown(text)}", _EXPORT)
    return int(text)


def _same(held: int, declared: int, unit: str, dtype: str, shape: tuple[int, ...], thing: str) -> None:
    if held != declared:
        raise FormatError(thing, f"it holds {held} {unit}, and {dtype} {list(shape)} takes {declared}", _EXPORT, rule="MG0105")
