"""Targets made of arrays, so that a detector can be run on weights without a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, TensorInfo
from modelguard.detector import Capability, Target

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

_NAMES = {"bool": "BOOL", "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}


class ArrayCheckpoint(Checkpoint):
    """A checkpoint that lies in memory."""

    format = "safetensors"

    def __init__(self, tensors: Tensors, name: str = "model") -> None:
        self.name = name
        self.files = (f"{name}.safetensors",)
        self._arrays = {key: np.ascontiguousarray(tensors[key]).reshape(tensors[key].shape) for key in sorted(tensors)}
        offset, infos = 8, {}
        for key, array in self._arrays.items():
            infos[key] = TensorInfo(key, _dtype_name(array.dtype), array.shape, self.files[0], offset, array.nbytes)
            offset += array.nbytes
        self._infos = infos

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._infos)

    def raw(self, name: str) -> memoryview:
        return memoryview(self._arrays[name].tobytes())

    def read(self, name: str) -> Array:
        view = self._arrays[name].view()
        view.flags.writeable = False
        return view


def as_target(tensors: Tensors, reference: Tensors | None = None, folder: Path | None = None) -> Target:
    """A target that provides WEIGHTS and, with ``reference``, REFERENCE. The files of ``folder`` become the artifact's files."""
    files = [] if folder is None else [ArtifactFile(path.name, path, path.stat().st_size) for path in sorted(folder.iterdir())]
    artifact = Artifact("memory", "local:memory", folder or Path(), tuple(files))
    capabilities = {Capability.FILES, Capability.WEIGHTS} | ({Capability.REFERENCE} if reference is not None else set())
    other = None if reference is None else as_target(reference)
    return Target(artifact, (ArrayCheckpoint(tensors),), reference=other, capabilities=frozenset(capabilities))


_SMALL_FLOATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


def _dtype_name(dtype: np.dtype[Any]) -> str:
    if dtype == np.dtype(ml_dtypes.bfloat16):
        return "BF16"
    if dtype.name in _SMALL_FLOATS:
        return _SMALL_FLOATS[dtype.name]
    return _NAMES.get(dtype.name) or f"{'U' if dtype.kind == 'u' else 'I'}{8 * dtype.itemsize}"
