"""The inputs of an ONNX graph: the one that samples go to, those that follow from it, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from modelguard import BuildRequest, InputHints, InputSpec, ModelError, artifact_json, resolve_input
from modelguard_runtime.onnx import ValueInfo

if TYPE_CHECKING:
    import numpy.typing as npt

NUMPY_DTYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64"}


def _mask(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.ones_like(x, dtype=torch.int64) if pad is None else (x != pad).to(torch.int64)


def _zeros(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.zeros_like(x, dtype=torch.int64)


def _positions(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.arange(x.shape[1], device=x.device).expand(x.shape[0], x.shape[1])


FILLED: Mapping[str, Callable[[torch.Tensor, int | None], torch.Tensor]] = {
    "attention_mask": _mask,
    "token_type_ids": _zeros,
    "position_ids": _positions,
}
"""Inputs of transformer exports that follow from the token ids and the padding token."""


def graph_inputs(model: onnx.ModelProto) -> tuple[ValueInfo, ...]:
    """The inputs that are given when the graph runs: initializers that are declared as inputs are not."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(ValueInfo.of(info) for info in model.graph.input if info.name not in stored)


def main_input(inputs: tuple[ValueInfo, ...]) -> ValueInfo:
    """The input samples go to: the only one, or the only one that is not filled from it. Raises :class:`ModelError` when there is none."""
    left = [info for info in inputs if info.name not in FILLED]
    if len(left) != 1:
        names = ", ".join(repr(info.name[:40]) for info in left[:5]) or "none"
        raise ModelError("graph", f"has {len(left)} inputs ({names})", "export the model with one input")
    if left[0].dtype not in NUMPY_DTYPES:
        raise ModelError(f"input {left[0].name[:80]!r}", f"has element type {left[0].dtype or 'unknown'}", "export it with a float32 input")
    return left[0]


def other_inputs(
    inputs: tuple[ValueInfo, ...], main: ValueInfo, pad: int | None
) -> Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[Any]]] | None:
    """The inputs beside ``main``, for onnxruntime; None when there are none."""
    others = [(info.name, NUMPY_DTYPES.get(info.dtype, "int64")) for info in inputs if info is not main]
    if not others:
        return None

    def fill(x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        tensor = torch.from_numpy(x)
        return {name: np.ascontiguousarray(FILLED[name](tensor, pad).numpy().astype(dtype)) for name, dtype in others}

    return fill


def baked_batch(main: ValueInfo) -> int | None:
    """The number of inputs the exporter fixed, or None."""
    first = main.shape[0] if main.shape else None
    return first if isinstance(first, int) and first > 0 else None


def describe_input(request: BuildRequest, model: onnx.ModelProto, main: ValueInfo, config: Mapping[str, Any]) -> InputSpec:
    """What ``main`` takes, by what the user, the graph and the files beside it say. Raises :class:`ModelError` when nobody says enough."""
    samples, option = request.samples, request.options.input
    hints = [InputHints.from_option(option)] if option else []
    if samples is None and not hints and main.shape is None:
        raise ModelError("input", "has no shape in the graph", "say --input shape=3x224x224")
    declared = InputHints.from_graph(main.shape, NUMPY_DTYPES[main.dtype], samples=samples)
    if declared.kind == "text":
        vocabulary = _vocabulary(model, main.name) or config.get("vocab_size")
        high = float(vocabulary - 1) if isinstance(vocabulary, int) and vocabulary > 1 else None
        hints.append(InputHints("embedding in the graph", low=0.0, high=high))
    hints.append(declared)
    hints.append(InputHints.from_metadata({entry.key: entry.value for entry in model.metadata_props}))
    preprocessor = artifact_json(request.artifact, request.checkpoint, "preprocessor_config.json")
    if preprocessor and declared.kind == "image":
        hints.append(InputHints.from_preprocessor(preprocessor))
    return resolve_input(hints, samples)


_SAME_IDS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that leave token ids what they are."""
_SAME_ROWS = ("Identity", "Cast", "DequantizeLinear")
"""Operators that leave a table its rows."""


def _vocabulary(model: onnx.ModelProto, ids: str) -> int | None:
    """Rows of the embedding that the token ids look up."""
    rows = {tensor.name: int(tensor.dims[0]) for tensor in model.graph.initializer if len(tensor.dims) == 2}
    named = {ids}
    for node in model.graph.node:
        given, made = node.input[0] if node.input else "", node.output[0] if node.output else ""
        if node.op_type in _SAME_ROWS and given in rows:
            rows[made] = rows[given]
        elif node.op_type in _SAME_IDS and given in named:
            named.add(made)
        elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in named and given in rows:
            return rows[given]
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) > 2 and given in named and node.input[2] in rows:
            return rows[node.input[2]]
    return None
