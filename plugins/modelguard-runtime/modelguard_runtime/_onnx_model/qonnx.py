"""QONNX' quantisers written out in ONNX' own operators, which torch and onnxruntime both have.

``Quant`` is ``(clip(round(x / scale + zero_point)) - zero_point) * scale`` with the bounds of an integer of ``bit_width`` bits, and
``BipolarQuant`` the sign of x times the scale (QONNX, https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from modelguard_runtime._onnx_model.head import new_prefix

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
_ROUNDING = {"ROUND": "Round", "HALF_EVEN": "Round", "FLOOR": "Floor", "CEIL": "Ceil"}
MAX_BITS = 32


def write_out(model: onnx.ModelProto) -> None:
    """Replace the quantisers in place; one that is not understood (another rounding, a width that is computed) stays, unsupported."""
    if not any(node.domain in DOMAINS for node in model.graph.node):
        return
    constants = _constants(model)
    prefix = new_prefix(model, "qonnx")
    nodes: list[onnx.NodeProto] = []
    for place, node in enumerate(list(model.graph.node)):
        nodes.extend(_written(node, constants, f"{prefix}.{place}", model) or [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Single numbers that the graph holds, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            found.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return {
        name: numpy_helper.to_array(tensor).reshape(-1)[0]
        for name, tensor in found.items()
        if not tensor.external_data and int(np.prod(tensor.dims, dtype=np.int64)) == 1
    }


def _written(node: onnx.NodeProto, constants: Mapping[str, Any], prefix: str, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    if node.domain not in DOMAINS or not node.output:
        return []
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}

    def stored(value: float, name: str) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{prefix}.{name}"))
        return f"{prefix}.{name}"

    def step(op: str, inputs: list[str], name: str) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [f"{prefix}.{name}"], name=f"{node.name or prefix}.{name}")

    if node.op_type == "BipolarQuant" and len(node.input) == 2:
        x, scale = node.input
        return [
            step("GreaterOrEqual", [x, stored(0, "zero")], "positive"),
            step("Where", [f"{prefix}.positive", stored(1, "one"), stored(-1, "minus")], "sign"),
            helper.make_node("Mul", [f"{prefix}.sign", scale], [node.output[0]], name=node.name),
        ]
    mode = attributes.get("rounding_mode", b"ROUND")
    rounding = _ROUNDING.get((mode.decode("utf-8", "replace") if isinstance(mode, bytes) else str(mode)).upper())
    bits = constants.get(node.input[3]) if len(node.input) > 3 else None
    if node.op_type != "Quant" or rounding is None or bits is None or not 1 <= float(bits) <= MAX_BITS or float(bits) != int(bits):
        return []
    x, scale, zero = node.input[:3]
    low, high = _bounds(int(bits), bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0)))
    return [
        step("Div", [x, scale], "ratio"),
        step("Add", [f"{prefix}.ratio", zero], "shifted"),
        step("Clip", [f"{prefix}.shifted", stored(low, "low"), stored(high, "high")], "clipped"),
        step(rounding, [f"{prefix}.clipped"], "levels"),
        step("Sub", [f"{prefix}.levels", zero], "centred"),
        helper.make_node("Mul", [f"{prefix}.centred", scale], [node.output[0]], name=node.name),
    ]


def _bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest integer; ``narrow`` leaves out the one that makes the range asymmetric (of unsigned ones, the largest)."""
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow
