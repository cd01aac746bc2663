"""Checkpoints: the named tensors of an artifact, read lazily; never a Python object graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from modelguard.artifact import Artifact, ArtifactFile

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from modelguard.onnx_graph import OnnxModel

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
        "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "C128": 128,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U4": 4, "I4": 4, "U2": 2, "I2": 2,
    }
)  # fmt: skip
"""Width in bits of one element, by dtype name. The names are safetensors' own, plus ONNX's that safetensors lacks."""

_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "C128": "complex128",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn", "U4": "uint4", "I4": "int4", "U2": "uint2", "I2": "int2",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype (ml_dtypes where numpy has none) that elements of dtype ``name`` are read as.

    Raises ``KeyError`` for an unknown name.
    """
    import numpy as np

    if name in _NUMPY:
        return np.dtype(_NUMPY[name]).newbyteorder("<")
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    return dtype


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor.

    ``dtype`` is a key of :data:`DTYPE_BITS`. ``file`` is artifact-relative. ``byte_offset`` is absolute in that file, and None
    where the bytes do not lie there as they are given (an ONNX tensor in typed data fields, a block-quantised one). ``byte_length``
    is the length of :meth:`Checkpoint.raw`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    byte_offset: int | None
    byte_length: int

    @property
    def size(self) -> int:
        """Number of elements (1 for rank 0)."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a tensor is stored whose values the file gives by block: a few bits an entry, and a scale that a group of entries shares.

    ``type`` is the format's name for it (``Q4_K``), ``bits`` how many an entry has. ``step``, ``low`` and ``high`` (float32) have one
    number for every ``group`` consecutive entries in C order: the widest distance between neighbouring levels, the lowest and the
    highest level. ``reach`` is how many steps a quantiser leaves an entry from the weight it stands for, or from the end of the group's
    levels where the weight lies beyond; infinite where levels are not chosen one by one. Where levels grow apart with their size, as
    those of small floats do, ``step`` is the narrowest distance and ``relative`` the widest as a share of the level.

    Of levels that are chosen ``together``, ``reach`` is that of the root mean square over a row. ``inputs`` says that the weights of each
    input (each column) were multiplied by a factor first, by which what feeds it was divided.
    """

    type: str
    bits: int
    group: int
    step: npt.NDArray[np.float32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    reach: float
    relative: float = 0.0
    together: bool = False
    inputs: bool = False


class Checkpoint(ABC):
    """The named tensors of one checkpoint: a single file, or a set of shards seen as one.

    ``name`` is the checkpoint's place in its artifact without extension and shard number (``model``, ``vae/model``);
    ``format`` is the id of its :class:`Format`; ``files`` the artifact-relative paths it is stored in.
    """

    name: str
    format: str
    files: tuple[str, ...]

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, in sorted order of name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text the file carries about itself. Untrusted."""
        return MappingProxyType({})

    @abstractmethod
    def raw(self, name: str) -> memoryview:
        """The tensor's exact bytes, little-endian, C order, read-only; zero-copy where the file allows it."""

    @abstractmethod
    def read(self, name: str) -> npt.NDArray[Any]:
        """The tensor as a read-only array of its shape; zero-copy where the file allows it."""

    def quantization(self, name: str) -> Quantization | None:
        """How the tensor is stored, where that is by block; :meth:`raw` and :meth:`read` then give the values as F32. None elsewhere."""
        return None

    def graph(self, check: Callable[[], None] = lambda: None) -> OnnxModel | None:
        """What the file computes from its weights, or None where its format holds no graph. Read anew by every call; no weight is.

        ``check`` is called every 1024 nodes and may raise to stop. Raises :class:`~modelguard.errors.FormatError` or
        :class:`~modelguard.errors.LimitError`.
        """
        return None


@dataclass(frozen=True, slots=True)
class FormatProblem:
    """Something wrong with how an artifact is stored, found while it was opened. Becomes a finding of ``format-integrity``.

    ``fatal`` says that the file's tensors are not available to detectors because of it.
    """

    rule: str
    file: str
    message: str
    tensor: str | None = None
    byte_offset: int | None = None
    fatal: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Format(ABC):
    """How one kind of checkpoint file is recognised and opened. Stateless."""

    id: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]]
    """Lower-case file name endings that are expected to hold this format; a hint, never evidence."""
    exclusive: ClassVar[bool] = True
    """Whether these endings promise this format, so that a file that has one and is nothing of the kind is a broken one."""
    also: ClassVar[frozenset[str]] = frozenset()
    """What every file of this format is besides, and so is no second thing, in the words of messages: ``a zip archive``."""

    @abstractmethod
    def recognise(self, head: bytes, size: int) -> bool:
        """Whether a file of ``size`` bytes beginning with ``head`` (up to 4096 bytes) claims to be this format."""

    def claims(self, file: ArtifactFile) -> bool:
        """Whether the whole file is this format, for one that the first bytes do not tell from others; asked when they fit. Cheap."""
        return True

    @abstractmethod
    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        """Read the header under limits. No tensor is read.

        Raises :class:`~modelguard.errors.FormatError` when the file is invalid or past a limit.
        """
