"""The repaired model as files: what the original has, with other weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_runtime.onnx import from_numpy

from modelguard import FormatError, numpy_dtype

if TYPE_CHECKING:
    from modelguard import Artifact, Checkpoint, Target

Arrays = Mapping[str, npt.NDArray[Any]]
BESIDE = (".json", ".jinja", ".txt", ".model")
"""Files that go with a model: configuration, tokenizer, labels, template. No code is carried over, and no other checkpoint: it would hold
the weights as they were."""
INDEX = ".index.json"


def write(target: Target, checkpoint: Checkpoint, weights: Arrays, folder: Path) -> tuple[Path, ...]:
    """Write ``checkpoint`` with ``weights`` in place of its own tensors into ``folder``; returns the files that are run.

    An ONNX file, and what it keeps outside, is copied and changed where the weights' bytes lie: all else stays as it is. The same
    tensors come as safetensors too. Weights of any other format become one safetensors file. Weights are rounded to the dtype they were
    stored in.
    """
    made = stored(checkpoint, weights)
    others = {path for item in target.checkpoints for path in item.files}
    for file in target.artifact.files:
        name = PurePosixPath(file.path).name.lower()
        if file.path not in others and name.endswith(BESIDE) and not name.endswith(INDEX):
            _copy(target.artifact, file.path, folder)
    plain = folder / f"{checkpoint.name}.safetensors"
    if checkpoint.format != "onnx":
        every = {name: made[name] if name in made else checkpoint.read(name) for name in checkpoint.tensors}
        _save(plain, every, checkpoint.metadata)
        return (plain,)
    run = tuple(_copy(target.artifact, path, folder) for path in checkpoint.files)
    for path, place in zip(checkpoint.files, run, strict=True):
        with place.open("r+b") as handle:
            for name, array in made.items():
                info = checkpoint.tensors[name]
                if info.file == path and info.byte_offset is not None:
                    handle.seek(info.byte_offset)
                    handle.write(array.tobytes())
    floats = {name: checkpoint.read(name) for name, info in checkpoint.tensors.items() if info.dtype in ("F16", "BF16", "F32", "F64")}
    _save(plain, {**floats, **made}, {})
    return run


def stored(checkpoint: Checkpoint, weights: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The weights in the dtypes that the checkpoint has them in. Raises :class:`~modelguard.FormatError` for one that does not fit."""
    made = {}
    for name, array in weights.items():
        info = checkpoint.tensors[name]
        as_stored = np.ascontiguousarray(array.astype(numpy_dtype(info.dtype)))
        if as_stored.shape != info.shape or as_stored.nbytes != info.byte_length:
            raise FormatError(f"tensor {name[:80]!r}", "does not fit where it was stored", "report this as a bug")
        made[name] = as_stored
    return made


def _copy(artifact: Artifact, path: str, folder: Path) -> Path:
    file = artifact.file(path)
    assert file is not None, "a checkpoint's files are the artifact's"
    place = folder.joinpath(*PurePosixPath(path).parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    with file.open() as source, place.open("xb") as sink:
        shutil.copyfileobj(source, sink)
    return place


def _save(place: Path, tensors: Arrays, metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True, exist_ok=True)
    made = {name: from_numpy(np.array(array), f"tensor {name[:80]!r}").contiguous() for name, array in tensors.items()}
    save_file(made, str(place), metadata=dict(metadata) or None)
