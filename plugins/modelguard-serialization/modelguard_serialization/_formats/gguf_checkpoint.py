"""What a GGUF file holds: its tensors, and the values that block-quantised tensors stand for.

Tensors have their dimensions in the order of numpy and torch, which is the reverse of the file's. Those of an architecture in
``gguf_names.NAMES`` have the names, and rows in the order, of the checkpoint that llama.cpp's converter made the file from; others
have the file's.
"""

from __future__ import annotations

import posixpath
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard import (
    DTYPE_BITS,
    Artifact,
    ArtifactError,
    ArtifactFile,
    Checkpoint,
    FormatError,
    FormatProblem,
    Quantization,
    TensorInfo,
    numpy_dtype,
)
from modelguard_serialization._formats.gguf_header import Entry, Header, read_header, shown
from modelguard_serialization._formats.gguf_names import heads, translate
from modelguard_serialization._formats.gguf_quants import dequantise, ranges
from modelguard_serialization._formats.held import HeldFile

if TYPE_CHECKING:
    import numpy.typing as npt

_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
HALF = 2.0**-11
"""Half a unit of float16's last place, relative: what storing a scale in it moves a level by."""


def open_gguf(file: ArtifactFile, artifact: Artifact) -> tuple[GgufCheckpoint, tuple[FormatProblem, ...]]:
    """The checkpoint in ``file`` and what is wrong with it. Raises :class:`~modelguard.FormatError`."""
    view = file.map()
    header = read_header(view, file.path)
    if header.order == ">" and (block := next((item for item in header.tensors if item.kind.blocks), None)):
        cause = f"is big-endian, and tensor {shown(block.name)} is {block.kind.name}, which is read from little-endian files only"
        raise FormatError(file.path, cause, "convert it to little-endian (gguf_convert_endian.py of llama.cpp)")
    checkpoint = GgufCheckpoint(file, len(view), header, _leader(file, header, artifact))
    return checkpoint, (*_split_problems(file, header), *_deceptive_names(file.path, header))


@dataclass(frozen=True, slots=True)
class _Place:
    entry: Entry
    heads: int
    """Of how many heads the rows are to be put back in transformers' order; 0 for none."""


class GgufCheckpoint(Checkpoint):
    """The tensors of one GGUF file. ``leader`` is the header that describes the model: the file's own, or that of its first part."""

    format = "gguf"

    def __init__(self, file: ArtifactFile, size: int, header: Header, leader: Header) -> None:
        self.name = file.path[:-5] if file.path.lower().endswith(".gguf") else posixpath.splitext(file.path)[0]
        self.files = (file.path,)
        self._file, self._order = HeldFile(file, size), header.order
        self._made: weakref.WeakValueDictionary[str, npt.NDArray[Any]] = weakref.WeakValueDictionary()
        architecture = leader.text("general.architecture")
        names = translate(architecture, (entry.name for entry in header.tensors))
        numbers = {key: leader.number(f"{architecture}.attention.{key}") for key in ("head_count", "head_count_kv")}
        self._places: dict[str, _Place] = {}
        for entry in header.tensors:
            count = heads(architecture, entry.name, numbers)
            fits = count and entry.shape and not entry.shape[0] % (2 * count)
            # Without the number of heads the order of rows cannot be told, and the name must not say that it can.
            name = names[entry.name] if fits or not heads(architecture, entry.name, {"head_count": 1}) else entry.name
            self._places[name] = _Place(entry, count if fits else 0)
        self._tensors = MappingProxyType({name: self._info(name, place) for name, place in sorted(self._places.items())})
        self._metadata = MappingProxyType({key: str(value.scalar) for key, value in header.values.items() if value.scalar is not None})

    def _info(self, name: str, place: _Place) -> TensorInfo:
        entry = place.entry
        length = entry.length if entry.kind.blocks is None else _size(entry) * 4
        return TensorInfo(name, entry.kind.dtype, entry.shape, self.files[0], None if self._changed(place) else entry.offset, length)

    def _changed(self, place: _Place) -> bool:
        """Whether the values are not given as they lie in the file."""
        kind = place.entry.kind
        return kind.blocks is not None or place.heads > 0 or (self._order == ">" and DTYPE_BITS[kind.dtype] > 8)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def raw(self, name: str) -> memoryview:
        place = self._places[name]
        if not self._changed(place):
            return self._stored(place)
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._make(place)
        return made.data.toreadonly()

    def read(self, name: str) -> npt.NDArray[Any]:
        entry = self._places[name].entry
        array: npt.NDArray[Any] = np.frombuffer(self.raw(name), numpy_dtype(entry.kind.dtype)).reshape(entry.shape)
        return array

    def quantization(self, name: str) -> Quantization | None:
        place = self._places[name]
        kind = place.entry.kind
        if kind.blocks is None:
            return None
        group, step, low, high = ranges(self._stored(place), kind)
        if place.heads:
            step, low, high = (_unrotate(part, place) for part in (step, low, high))
        room = max(map(abs, kind.ends)) * HALF / kind.gap
        return Quantization(kind.name, kind.bits, group, step, low, high, kind.reach + room)

    def _make(self, place: _Place) -> npt.NDArray[Any]:
        entry, stored = place.entry, self._stored(place)
        values: npt.NDArray[Any]
        if entry.kind.blocks is not None:
            values = dequantise(stored, entry.kind, _size(entry))
        else:
            width = DTYPE_BITS[entry.kind.dtype] // 8
            values = np.frombuffer(stored, f"{self._order}u{width}").astype(f"<u{width}")
        if place.heads:
            values = _unrotate(values, place)
        return values.view(np.uint8)

    def _stored(self, place: _Place) -> memoryview:
        """The tensor's bytes as they lie in the file."""
        view = self._file.view()
        return view[place.entry.offset : place.entry.offset + place.entry.length]


def _size(entry: Entry) -> int:
    return entry.length // entry.kind.size * entry.kind.block


def _unrotate(values: npt.NDArray[Any], place: _Place) -> npt.NDArray[Any]:
    """Numbers of a tensor's rows, as many each, in the order of transformers: in each head first the first of every pair of rows."""
    rows = place.entry.shape[0]
    pairs = values.reshape(place.heads, rows // place.heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)


def _leader(file: ArtifactFile, header: Header, artifact: Artifact) -> Header:
    """The header that holds the model's metadata: of a model in parts (llama.cpp's gguf-split) that of the first one."""
    match = _SHARD.fullmatch(file.path)
    if match is None or header.text("general.architecture"):
        return header
    first = artifact.file(f"{match[1]}-00001-of-{match[3]}{file.path[-5:]}")
    if first is None or first.path == file.path:
        return header
    try:
        return read_header(first.map(), first.path)
    except (FormatError, ArtifactError):
        return header  # it has a problem of its own


def _split_problems(file: ArtifactFile, header: Header) -> Iterator[FormatProblem]:
    """What a part says of itself that its name does not. Loaders go by the name of the first part, and some by ``split.no``."""
    match = _SHARD.fullmatch(file.path)
    number, count = header.number("split.no"), header.number("split.count")
    if count is None or (count <= 1 and match is None):
        return
    if match is None or (int(match[2]) - 1, int(match[3])) != (number, count):
        says = f"part {number} of {count}, counted from 0"
        message = f"{file.path}: says that it is {says}, and its name does not; give the parts the names they were written under"
        yield FormatProblem("MG0109", file.path, message, evidence={"kind": "split", "number": number, "count": count})


def _deceptive_names(path: str, header: Header) -> Iterator[FormatProblem]:
    bad = [entry.name for entry in header.tensors if not entry.name.isprintable()]
    if bad:
        message = f"{path}: {len(bad)} tensor names contain invisible or control characters ({shown(bad[0])}); have them renamed"
        yield FormatProblem("MG0112", path, message, tensor=bad[0], evidence={"count": len(bad)})
