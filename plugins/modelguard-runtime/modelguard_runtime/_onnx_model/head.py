"""Where an ONNX graph's logits are: which output to read, and the softmax or sigmoid it ends in taken off."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from modelguard import ModelError

_HEADS = {"Softmax": "softmax", "LogSoftmax": "log-softmax", "Sigmoid": "sigmoid"}
_TRANSPARENT = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Dropout")
"""Operators between the head and the output that change no value."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_NAMES = ("logits", "scores", "probabilities", "output_probability", "output")
"""Names exporters give the output that classifies, best first."""


@dataclass(frozen=True, slots=True)
class Head:
    """``output`` is the graph output that was chosen among ``outputs``; ``head`` what was taken off it (``unknown``: nothing was found)."""

    output: str
    outputs: tuple[str, ...]
    head: str


def take_off(model: onnx.ModelProto) -> Head:
    """Make the logits the only output of the graph, in place.

    Raises :class:`ModelError` when no output is a floating-point tensor.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    chosen, source = _choose(model, makers)
    outputs = tuple(output.name for output in model.graph.output)
    name, head = source, "unknown"
    # Bounded by the number of nodes: a cyclic graph must not hang this.
    for _ in range(len(model.graph.node)):
        node = makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or not node.input:
            break
        if node.op_type in _HEADS:
            name, head = node.input[0], _HEADS[node.op_type]
            break
        if node.op_type not in _TRANSPARENT:
            break
        name = node.input[0]
    kept = onnx.ValueInfoProto()
    declared = next((output for output in model.graph.output if output.name == source), None)
    if head == "unknown" and declared is not None:
        kept.CopyFrom(declared)
    else:
        # The exporter does not say what comes before the head; it is as wide as the head's output, in the same type.
        kept.name = source if head == "unknown" else name
        element = declared.type.tensor_type.elem_type if declared is not None else TensorProto.FLOAT
        kept.type.tensor_type.elem_type = _declared_type(model, kept.name) or element
    del model.graph.output[:]
    model.graph.output.append(kept)
    return Head(chosen, outputs, head)


def _choose(model: onnx.ModelProto, makers: dict[str, onnx.NodeProto]) -> tuple[str, str]:
    """The name of the classifying output, and of the tensor behind it (before a ZipMap, which makes dictionaries)."""
    candidates: list[tuple[tuple[int, int, int], str, str]] = []
    for place, output in enumerate(model.graph.output):
        maker = makers.get(output.name)
        if maker is not None and maker.op_type == "ZipMap" and maker.input:
            candidates.append(((0, 0, place), output.name, maker.input[0]))
        elif output.type.tensor_type.elem_type in _FLOATS:
            tensor = output.type.tensor_type
            rank = len(tensor.shape.dim) if tensor.HasField("shape") else 2
            named = _NAMES.index(output.name) if output.name in _NAMES else len(_NAMES)
            candidates.append(((named, 0 if rank == 2 else 1, place), output.name, output.name))
    if not candidates:
        raise ModelError("graph", "has no floating-point output", "export the model so that it returns its logits")
    _, chosen, source = min(candidates)
    return chosen, source


def _declared_type(model: onnx.ModelProto, name: str) -> int:
    return next((int(value.type.tensor_type.elem_type) for value in model.graph.value_info if value.name == name), 0)
