"""An ONNX checkpoint as a graph without its weights, and the weights as arrays beside it: each in memory once, and aligned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from modelguard import Artifact, ArtifactError, Checkpoint, LimitError, ModelError, Skip, numpy_dtype, onnx_skeleton

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_MESSAGE = 1 << 28
"""Bytes the graph may have without its weights."""


@dataclass(frozen=True)
class OnnxFile:
    """``model`` has, for each weight that was taken out, external_data with the one key ``modelguard`` that names it for :meth:`weight`."""

    model: onnx.ModelProto
    artifact: Artifact
    checkpoint: Checkpoint
    _weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, artifact: Artifact, checkpoint: Checkpoint) -> OnnxFile:
        """Raises :class:`ModelError` when it is not an ONNX checkpoint, :class:`LimitError` when its graph alone is too large."""
        message = onnx_skeleton(checkpoint)
        if len(message) > MAX_MESSAGE:
            raise LimitError(
                checkpoint.name,
                f"has a graph of {len(message)} bytes without its weights, {MAX_MESSAGE} are allowed",
                "it may be built to hang readers",
            )
        model = onnx.ModelProto()
        try:
            model.ParseFromString(message)
        except DecodeError as error:
            raise ModelError(checkpoint.name, f"is not a valid ONNX model ({error})", "export it again") from None
        return cls(model, artifact, checkpoint)

    def weight(self, name: str) -> npt.NDArray[Any]:
        """The weight that was taken out under ``name``, read-only. Raises :class:`ModelError` when there is none."""
        if name not in self._weights:
            if name not in self.checkpoint.tensors:
                raise ModelError(
                    f"tensor {name[:80]!r}", "refers to data outside the graph", "the graph is malformed, or a data file is missing"
                )
            self._weights[name] = self._read(name)
        return self._weights[name]

    def _read(self, name: str) -> npt.NDArray[Any]:
        """The tensor's bytes, read into aligned memory where they lie contiguously in a file: protobuf aligns nothing."""
        info = self.checkpoint.tensors[name]
        file = self.artifact.file(info.file)
        try:
            dtype = numpy_dtype(info.dtype)
        except KeyError:
            raise Skip(f"tensor {name[:80]!r} has dtype {info.dtype}, which cannot be run: export it in float32") from None
        if info.byte_offset is None or file is None or info.byte_length != info.size * dtype.itemsize:
            return self.checkpoint.read(name)
        buffer = np.empty(info.byte_length, np.uint8)
        with file.open() as handle:
            handle.seek(info.byte_offset)
            if handle.readinto(buffer.data) != info.byte_length:  # type: ignore[attr-defined]
                raise ArtifactError(file.path, "became shorter while it was read", "scan a copy that nothing writes to")
        buffer.flags.writeable = False
        return buffer.view(dtype).reshape(info.shape)
