"""The guard as an ONNX graph: the same numbers as ``guard.py``, in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""What onnxruntime of 2022 and later reads."""


def graph(facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An ONNX file whose inputs are ``logits`` (N, K) and, as far as the guard judges by them, ``features`` (N, D) and ``overlaid``
    (N, M, K), float32; its outputs are ``score_NAME`` (N,) float64 for each statistic, and ``reject`` (N,) bool."""
    build = _Graph()
    classes = len(arrays["clean.class"])
    build.input("logits", ["N", classes])
    z = build.node("Cast", "logits", to=TensorProto.DOUBLE)
    finite = build.node("Not", build.node("IsNaN", build.node("ReduceSum", build.node("Sub", z, z), build.ints([1]), keepdims=0)))
    rejects = []
    for name, threshold in facts["thresholds"].items():
        if name == "confidence":
            raw = _unsure(build, z, classes)
        elif name == "features":
            build.input("features", ["N", arrays["means"].shape[1]])
            raw = _distance(build, z, arrays["means"], arrays["whiten"])
        else:
            build.input("overlaid", ["N", len(arrays["overlays"]), classes])
            raw = _agreement(build)
        known = build.node("And", finite, build.node("Not", build.node("IsNaN", raw)))
        score = build.node("Where", known, raw, build.doubles(np.inf), output=f"score_{name}")
        build.output(score, TensorProto.DOUBLE)
        rejects.append(build.node("Not", build.node("LessOrEqual", score, build.doubles(threshold))))
    reject = rejects[0]
    for other in rejects[1:]:
        reject = build.node("Or", reject, other)
    build.node("Identity", reject, output="reject")
    build.output("reject", TensorProto.BOOL)
    return build.bytes()


def _unsure(build: _Graph, z: str, classes: int) -> str:
    """log of the sum of exp of all logits but the largest, less the largest."""
    largest = build.node("TopK", z, build.ints([classes]), axis=1, outputs=2)
    top = build.node("Slice", largest, build.ints([0]), build.ints([1]), build.ints([1]))  # (N, 1)
    rest = build.node("Slice", largest, build.ints([1]), build.ints([classes]), build.ints([1]))  # (N, K - 1)
    total = build.node("ReduceLogSumExp", rest, axes=[1], keepdims=0)
    return build.node("Sub", total, build.node("Squeeze", top, build.ints([1])))


def _distance(build: _Graph, z: str, means: npt.NDArray[Any], whiten: npt.NDArray[Any]) -> str:
    label = build.node("ArgMax", z, axis=1, keepdims=0)
    mean = build.node("Gather", build.doubles(means), label, axis=0)  # (N, D)
    away = build.node("Sub", build.node("Cast", "features", to=TensorProto.DOUBLE), mean)
    return build.node("ReduceSumSquare", build.node("MatMul", away, build.doubles(whiten)), axes=[1], keepdims=0)


def _agreement(build: _Graph) -> str:
    z = build.node("Cast", "overlaid", to=TensorProto.DOUBLE)
    logs = build.node("LogSoftmax", z, axis=2)
    total = build.node("ReduceSum", build.node("Mul", build.node("Exp", logs), logs), build.ints([2]), keepdims=0)  # (N, M)
    return build.node("ReduceMean", total, axes=[1], keepdims=0)


class _Graph:
    """A graph in the making; values are named by number."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: list[Any]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def output(self, name: str, kind: int) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, ["N"]))

    def node(self, op: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any) -> str:
        """The name of the node's first output."""
        names = [output or f"v{len(self._nodes)}", *(f"v{len(self._nodes)}.{n}" for n in range(1, outputs))]
        self._nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def ints(self, values: list[int]) -> str:
        return self._constant(np.array(values, np.int64))

    def doubles(self, values: npt.ArrayLike) -> str:
        return self._constant(np.asarray(values, np.float64))

    def _constant(self, array: npt.NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def bytes(self) -> bytes:
        graph = helper.make_graph(self._nodes, "guard", self._inputs, self._outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="modelguard")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
