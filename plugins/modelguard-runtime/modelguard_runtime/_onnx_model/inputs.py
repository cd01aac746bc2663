"""What the data of an ONNX graph is: its shape, range and normalisation, by everything that says something of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx
from onnx import TensorProto

from modelguard import ASSUMED, BuildRequest, InputHints, InputSpec, ModelError, Skip, artifact_json, resolve_input
from modelguard_runtime._onnx_model.head import append, integers, opset, unsqueeze
from modelguard_runtime._onnx_model.roles import GraphInput

NUMPY_DTYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8", TensorProto.INT32: "int32", TensorProto.INT64: "int64",
}  # fmt: skip


def add_batch(model: onnx.ModelProto, data: GraphInput) -> GraphInput:
    """Give an input of rank 1, which has no batch, one of size 1, in place; and the output an axis in front."""
    name = f"{data.name}.batched"
    taken = {made for node in model.graph.node for made in (*node.input, *node.output)}
    while name in taken:
        name += "_"
    legacy = opset(model) < 13
    node = onnx.helper.make_node("Squeeze", [name], [data.name])
    if legacy:
        node.attribute.append(onnx.helper.make_attribute("axes", [0]))
    if not legacy:
        tensor = integers([0])
        tensor.name = f"{name}.axis"
        model.graph.initializer.append(tensor)
        node.input.append(tensor.name)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([node, *nodes])
    shape = (1, *(data.shape or (None,)))
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, data.element, list(shape)))
    unsqueeze(model)
    return replace(data, name=name, shape=shape)


def batch_first(model: onnx.ModelProto, axis: int, rank: int) -> None:
    """Move the axis of the output that counts the batch to the front, in place."""
    append(model, "Transpose", perm=[axis, *(place for place in range(rank) if place != axis)])


def baked_batch(data: GraphInput) -> int | None:
    """The number of inputs the exporter fixed, or None."""
    first = data.shape[0] if data.shape else None
    return first if isinstance(first, int) and first > 0 else None


def describe_input(request: BuildRequest, model: onnx.ModelProto, data: GraphInput, config: Mapping[str, Any]) -> InputSpec:
    """What ``data`` takes, by what the user, the graph and the files beside it say.

    Raises :class:`ModelError` when nobody says enough, :class:`~modelguard.Skip` for a rank that no kind of sample has.
    """
    samples, option = request.samples, request.options.input
    hints = [InputHints.from_option(option)] if option else []
    if samples is None and not hints and data.shape is None:
        raise ModelError("input", "has no shape in the graph", "say --input shape=3x224x224")
    if data.shape is not None and not 2 <= len(data.shape) <= 4:
        raise Skip(f"the input {data} has {data.rank} dimensions: only images (N,C,H,W), vectors (N,F) and token ids (N,T) can be run")
    declared = InputHints.from_graph(data.shape, NUMPY_DTYPES[data.element], samples=samples)
    if declared.kind == "text":
        hints.append(_token_range(request, model, data.name, config))
    hints.append(declared)
    hints.append(InputHints.from_metadata({entry.key: entry.value for entry in model.metadata_props}))
    preprocessor = artifact_json(request.artifact, request.checkpoint, "preprocessor_config.json")
    if preprocessor and declared.kind == "image":
        hints.append(InputHints.from_preprocessor(preprocessor))
    return resolve_input(hints, samples)


def _token_range(request: BuildRequest, model: onnx.ModelProto, ids: str, config: Mapping[str, Any]) -> InputHints:
    """First and last token: by the table the graph looks them up in, config.json, the tokenizer, or any table the graph has."""
    tables = _tables(model)
    size: Any = _looked_up(model, ids, tables)[0]
    source = "embedding in the graph"
    if not size:
        size, source = config.get("vocab_size"), "config.json"
    if not isinstance(size, int) or size < 2:
        said = artifact_json(request.artifact, request.checkpoint, "tokenizer.json").get("model")
        vocabulary = said.get("vocab") if isinstance(said, Mapping) else None
        size, source = (len(vocabulary), "tokenizer.json") if isinstance(vocabulary, dict | list) else (None, "")
    if not isinstance(size, int) or size < 2:
        looked_up = [
            tables[node.input[0]] for node in model.graph.node if node.op_type == "Gather" and node.input and node.input[0] in tables
        ]
        size, source = (max(looked_up), "a table of the graph") if looked_up else (None, "embedding in the graph")
    if not isinstance(size, int) or size < 2:
        # Whole numbers that nothing looks up: bytes, most often. Samples know better.
        return InputHints(ASSUMED, low=0.0, high=255.0) if request.samples is None else InputHints(source, low=0.0)
    return InputHints(source, low=0.0, high=float(size - 1))


_SAME_IDS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Clip", "Where", "Max", "Min")
"""Operators that leave token ids what they are."""
_SAME_ROWS = ("Identity", "Cast", "DequantizeLinear")
"""Operators that leave a table its rows."""


def _tables(model: onnx.ModelProto) -> dict[str, int]:
    """Rows of each matrix among the weights, by name."""
    rows = {tensor.name: int(tensor.dims[0]) for tensor in model.graph.initializer if len(tensor.dims) == 2}
    for node in model.graph.node:
        given, made = node.input[0] if node.input else "", node.output[0] if node.output else ""
        if node.op_type in _SAME_ROWS and given in rows:
            rows[made] = rows[given]
    return rows


def token_table(model: onnx.ModelProto, ids: str) -> str | None:
    """The name of the node that looks the token ids up in a table, as layers are named, or None."""
    return _looked_up(model, ids, _tables(model))[1]


def _looked_up(model: onnx.ModelProto, ids: str, rows: Mapping[str, int]) -> tuple[int | None, str | None]:
    """Rows of the embedding that the token ids look up, or the depth they are made one-hot with; and the node that does, where it is a
    look-up and nothing else."""
    numbers = {
        tensor.name: int(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and all(d == 1 for d in tensor.dims) and not tensor.external_data
    }
    named = {ids}
    for node in model.graph.node:
        given, made = node.input[0] if node.input else "", node.output[0] if node.output else ""
        if node.op_type in _SAME_IDS and any(name in named for name in node.input):
            named.add(made)
        elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in named and given in rows:
            return rows[given], node.name or made
        elif node.op_type == "OneHot" and len(node.input) > 1 and given in named and numbers.get(node.input[1], 0) > 1:
            return numbers[node.input[1]], None
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) > 2 and given in named and node.input[2] in rows:
            return rows[node.input[2]], None
    return None, None
