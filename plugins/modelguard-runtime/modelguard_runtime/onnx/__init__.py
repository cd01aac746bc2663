"""ONNX graphs as differentiable ``torch.fx`` modules. Nothing in here knows of whoever uses it.

From the bottom up, each part importing only those before it: ``errors``, ``limits``, ``tensors``, ``structure`` (what a graph is);
``ops`` (operators as torch functions); ``graph`` (torch graphs under construction); ``rewrite`` (changes to them); ``lower`` (ONNX nodes
to calls); ``importer``.
"""

from __future__ import annotations

from modelguard_runtime.onnx.errors import GraphError, GraphLimitError, OnnxError, UnsupportedError
from modelguard_runtime.onnx.importer import ImportedGraph, import_graph
from modelguard_runtime.onnx.limits import GraphLimits
from modelguard_runtime.onnx.lower.scope import SourceNode
from modelguard_runtime.onnx.lower.table import supported
from modelguard_runtime.onnx.ops import NEWEST, TABLE, Operator
from modelguard_runtime.onnx.structure import check_size, domain_of
from modelguard_runtime.onnx.tensors import EXTERNAL_KEY, ValueInfo, Weight, from_numpy

__all__ = [
    "EXTERNAL_KEY",
    "NEWEST",
    "TABLE",
    "GraphError",
    "GraphLimitError",
    "GraphLimits",
    "ImportedGraph",
    "OnnxError",
    "Operator",
    "SourceNode",
    "UnsupportedError",
    "ValueInfo",
    "Weight",
    "check_size",
    "domain_of",
    "from_numpy",
    "import_graph",
    "supported",
]
