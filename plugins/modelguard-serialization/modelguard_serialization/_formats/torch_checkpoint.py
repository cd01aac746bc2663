"""What zip and legacy torch files have in common: tensors as views of storages that lie in the file."""

from __future__ import annotations

import posixpath
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelguard import ArtifactFile, Checkpoint, FormatError, FormatProblem, LimitError, TensorInfo, numpy_dtype
from modelguard_serialization import limits
from modelguard_serialization._formats.held import HeldFile
from modelguard_serialization._formats.torch_names import EXTENSIONS
from modelguard_serialization._formats.torch_objects import Found, Tensor, find_tensors
from modelguard_serialization._pickle.machine import BrokenError, Deaf, Machine, compact
from modelguard_serialization._pickle.run import run
from modelguard_serialization._pickle.storages import WIDTHS
from modelguard_serialization._pickle.values import Value

if TYPE_CHECKING:
    import numpy.typing as npt

AGAIN = "download or save it again, and do not load it as it is"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a storage lie: ``size`` of them, at ``at`` in the file, or wherever ``load`` unpacks them from."""

    at: int | None
    size: int
    load: Callable[[memoryview], memoryview] | None = None


class TorchCheckpoint(Checkpoint):
    """The tensors of one torch file. ``big`` says that its numbers are big-endian."""

    def __init__(self, kind: str, file: ArtifactFile, size: int, found: Found, places: Mapping[str, Place], big: bool) -> None:
        ending = next((item for item in EXTENSIONS if file.path.lower().endswith(item)), posixpath.splitext(file.path)[1])
        self.name = file.path[: len(file.path) - len(ending)]
        self.format = kind
        self.files = (file.path,)
        self._file, self._big, self._places = HeldFile(file, size), big, places
        self._found = found.tensors
        self._loaded: weakref.WeakValueDictionary[str, memoryview] = weakref.WeakValueDictionary()
        self._tensors = MappingProxyType({name: self._info(name, tensor) for name, tensor in sorted(found.tensors.items())})
        self._metadata = MappingProxyType({"wrapper": found.wrapper} if found.wrapper else {})

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """``wrapper`` is the key under which all tensors lie, and which their names leave out."""
        return self._metadata

    def raw(self, name: str) -> memoryview:
        tensor = self._found[name]
        length = prod(tensor.shape) * tensor.width
        storage = self._storage(tensor)
        begin = tensor.offset * tensor.width
        if tensor.contiguous:
            view = storage[begin : begin + length]
            return view if not self._big else _swapped(view, tensor.dtype)
        import numpy as np

        unit = np.dtype(f"V{tensor.width}")
        strides = tuple(step * tensor.width for step in tensor.stride)
        # numpy checks that no element lies outside the storage.
        array: npt.NDArray[Any] = np.ndarray(tensor.shape, unit, buffer=storage, offset=begin, strides=strides)
        view = np.ascontiguousarray(array).view(np.uint8).reshape(-1).data.toreadonly()
        return view if not self._big else _swapped(view, tensor.dtype)

    def read(self, name: str) -> npt.NDArray[Any]:
        tensor = self._found[name]
        import numpy as np

        array = np.frombuffer(self.raw(name), dtype=numpy_dtype(tensor.dtype)).reshape(tensor.shape)
        array.flags.writeable = False
        return array

    def _info(self, name: str, tensor: Tensor) -> TensorInfo:
        at = self._places[tensor.storage.key].at
        here = at is not None and tensor.contiguous and not self._big
        base = tensor.storage.offset * WIDTHS[tensor.storage.dtype]
        offset = at + base + tensor.offset * tensor.width if here and at is not None else None
        return TensorInfo(name, tensor.dtype, tensor.shape, self.files[0], offset, prod(tensor.shape) * tensor.width)

    def _storage(self, tensor: Tensor) -> memoryview:
        place = self._places[tensor.storage.key]
        if place.at is not None:
            whole = self._file.view()[place.at : place.at + place.size]
        else:
            assert place.load is not None
            kept = self._loaded.get(tensor.storage.key)
            whole = kept if kept is not None else place.load(self._file.view())
            self._loaded[tensor.storage.key] = whole
        width = WIDTHS[tensor.storage.dtype]
        return whole[tensor.storage.offset * width : (tensor.storage.offset + tensor.storage.count) * width]


def _swapped(view: memoryview, dtype: str) -> memoryview:
    width = WIDTHS[dtype] // (2 if dtype in ("C64", "C128") else 1)
    if width == 1:
        return view
    import numpy as np

    return np.frombuffer(view, f">u{width}").astype(f"<u{width}").view(np.uint8).data.toreadonly()


def load(path: str, data: memoryview, at: int = 0) -> tuple[Value, Machine]:
    """What the pickle at ``at`` stands for, and the machine that read it. Raises :class:`FormatError`."""
    machine = Machine(compact(data), at, Deaf(), lambda: None)
    machine.most = limits.TORCH_OPCODES
    try:
        return run(machine), machine
    except BrokenError as error:
        cause = f"its pickle breaks off at byte {machine.at}: {error}"
        if error.limit:
            raise LimitError(path, cause, AGAIN, rule="MG0104") from None
        raise FormatError(path, cause, AGAIN) from None


def tensors_in(path: str, saved: Value) -> Found:
    try:
        found = find_tensors(saved)
    except OverflowError:
        raise LimitError(path, "holds more values, or deeper ones, than are followed", AGAIN, rule="MG0104") from None
    if len(found.tensors) > limits.TORCH_TENSORS:
        raise LimitError(path, f"holds more than {limits.TORCH_TENSORS} tensors", AGAIN, rule="MG0104")
    return found


def check(path: str, found: Found, places: Mapping[str, Place]) -> Iterator[FormatProblem]:
    """That every tensor lies within its storage, and every storage within the file; and what is not read. Raises :class:`FormatError`."""
    for name, tensor in found.tensors.items():
        thing = f"{path}, tensor {shown(name)}"
        storage = tensor.storage
        width = WIDTHS[storage.dtype]
        place = places.get(storage.key)
        if place is None:
            raise FormatError(thing, f"its storage {shown(storage.key)} is not in the file", AGAIN, rule="MG0105")
        if (storage.offset + storage.count) * width > place.size:
            cause = f"its storage should have {storage.count} elements of {width} bytes, and has {place.size} bytes"
            raise FormatError(thing, cause, AGAIN, rule="MG0105")
        if tensor.end * tensor.width > storage.count * width:
            cause = f"its shape {list(tensor.shape)[:8]} and strides reach past the end of its storage of {storage.count} elements"
            raise FormatError(thing, cause, AGAIN, rule="MG0105")
        size = prod(tensor.shape)
        if size * tensor.width > max(storage.count * width, limits.TORCH_EXPANDED):
            cause = f"its {size} elements come from a storage of {storage.count}: expanded, it takes more memory than the limit"
            raise LimitError(thing, cause, AGAIN, rule="MG0104")
        if len(name) > 4096:
            raise LimitError(path, f"has a tensor name of {len(name)} characters, and 4096 are the limit", AGAIN, rule="MG0104")
    if found.repeated:
        raise FormatError(path, f"has two tensors that are called {shown(found.repeated)}", AGAIN, rule="MG0107")
    if found.others:
        name, what = next(iter(found.others.items()))
        message = (
            f"{path}: {len(found.others)} tensors are not read: {shown(name)} is {what}; save them as plain tensors to have them looked at"
        )
        yield FormatProblem("MG9004", path, message, tensor=name, evidence={"kind": "tensors", "count": len(found.others)})
    hidden = [name for name in found.tensors if not name.isprintable()]
    if hidden:
        message = f"{path}: {len(hidden)} tensor names contain invisible or control characters, first {shown(hidden[0])}; do not trust it"
        yield FormatProblem("MG0112", path, message, tensor=hidden[0], evidence={"count": len(hidden)})


def shown(text: str) -> str:
    safe = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:120])
    return f"'{safe}'" if len(text) <= 120 else f"'{safe}...' ({len(text)} characters)"
