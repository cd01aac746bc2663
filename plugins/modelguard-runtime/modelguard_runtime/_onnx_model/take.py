"""What of an ONNX checkpoint is run: one output, what leads to it, one input for the data. No torch here, so that a plan can ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from modelguard import BuildRequest, InputHints
from modelguard_runtime._onnx_model.file import OnnxFile
from modelguard_runtime._onnx_model.head import Head, take_off
from modelguard_runtime._onnx_model.qonnx import write_out
from modelguard_runtime._onnx_model.roles import GraphInput, Roles, assign, declared, graph_inputs
from modelguard_runtime._onnx_model.tidy import free_dimensions, prune


@dataclass(frozen=True)
class Taken:
    """An ONNX file whose graph was cut down, in place, to what its ``head`` needs.

    ``declared`` are the inputs of the file, ``inputs`` those that are left, ``data`` the one that samples go to as the graph has it now;
    ``labels`` are names of classes that the graph holds, as config.json would say them.
    """

    file: OnnxFile
    head: Head
    declared: tuple[GraphInput, ...]
    inputs: tuple[GraphInput, ...]
    roles: Roles
    data: GraphInput
    labels: Mapping[str, Any]


def take(request: BuildRequest) -> Taken:
    """Read the graph, choose output and input. Raises :class:`~modelguard.Skip` for what cannot be told, and what reading raises."""
    file = OnnxFile.load(request.artifact, request.checkpoint)
    model, options = file.model, request.options
    free_dimensions(model)
    write_out(model)
    labels, every = class_labels(model), graph_inputs(model)
    outputs = [declared(output) for output in model.graph.output]
    head = take_off(model, every, options.output)
    prune(model)
    inputs = graph_inputs(model)
    said = InputHints.from_option(options.input) if options.input else InputHints("")
    left_out = {info.name for info in every} - {info.name for info in inputs}
    numbers = {name: given for name, given in said.numbers.items() if name not in left_out}
    others = request.samples.others if request.samples is not None else {}
    roles = assign(inputs, outputs, data=said.data, numbers=numbers, arrays=others)
    return Taken(file, head, every, inputs, roles, roles.data, labels)


def class_labels(model: onnx.ModelProto) -> dict[str, Any]:
    """The names an ``ai.onnx.ml`` classifier gives its classes, as config.json would say them."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.domain == "ai.onnx.ml" and attribute.name == "classlabels_strings":
                names = [name.decode("utf-8", "replace") for name in attribute.strings]
                return {"id2label": {str(place): name for place, name in enumerate(names)}}
    return {}
