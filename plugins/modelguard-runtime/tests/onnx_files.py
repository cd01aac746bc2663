"""ONNX files for tests: exported from torch, and written by hand."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def export(module: nn.Module, path: Path, shape: tuple[int, ...] = (1, 1, 8, 8), *, dynamo: bool = False, free: bool = True) -> Path:
    """Export without noise; with ``free``, the batch is a free dimension."""
    given: dict[str, Any] = {"input_names": ["input"], "dynamo": dynamo}
    if dynamo:
        given |= {"external_data": False, "dynamic_shapes": ({0: torch.export.Dim("N", min=2)},) if free else None}
        shape = (2, *shape[1:]) if free else shape
    elif free:
        given["dynamic_axes"] = {"input": {0: "N"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(shape),), str(path), verbose=False, **given)
    return path


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], path: Path, **given: Any) -> Path:
    made = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in given.pop("domains", ()))]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10, **given)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, kind: int, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def linear_graph(path: Path, tail: list[Any], output: Any, **given: Any) -> Path:
    """(N, 6) -> a linear layer of three outputs called ``z`` -> ``tail``."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), *tail]
    return graph(nodes, [value("x", TensorProto.FLOAT, ["N", 6])], [output], weights, path, **given)
