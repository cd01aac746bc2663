"""ONNX graphs as differentiable ``torch.fx`` modules."""

from __future__ import annotations

from modelguard_runtime.onnx.importer import ImportedGraph, import_graph
from modelguard_runtime.onnx.limits import GraphLimits
from modelguard_runtime.onnx.scope import SourceNode
from modelguard_runtime.onnx.table import NEWEST, TABLE, Operator
from modelguard_runtime.onnx.types import EXTERNAL_KEY, ValueInfo, Weight

__all__ = [
    "EXTERNAL_KEY",
    "NEWEST",
    "TABLE",
    "GraphLimits",
    "ImportedGraph",
    "Operator",
    "SourceNode",
    "ValueInfo",
    "Weight",
    "import_graph",
]
