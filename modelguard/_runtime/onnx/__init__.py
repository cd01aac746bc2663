"""ONNX graphs as differentiable ``torch.fx`` modules."""

from __future__ import annotations

from modelguard._runtime.onnx.importer import ImportedGraph, import_graph
from modelguard._runtime.onnx.limits import GraphLimits
from modelguard._runtime.onnx.scope import SourceNode
from modelguard._runtime.onnx.table import NEWEST, TABLE, Operator
from modelguard._runtime.onnx.types import EXTERNAL_KEY, ValueInfo, Weight

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
