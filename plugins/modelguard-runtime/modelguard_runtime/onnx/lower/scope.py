"""Names of an ONNX graph while it is lowered, and what the graphs of one model share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto
from torch import fx

from modelguard_runtime.onnx.graph.builder import Builder
from modelguard_runtime.onnx.graph.values import Value
from modelguard_runtime.onnx.structure import FunctionKey
from modelguard_runtime.onnx.tensors import Weight


@dataclass(frozen=True, slots=True)
class SourceNode:
    """The ONNX node an fx node came from; ``output`` is the ONNX name of the value."""

    name: str
    op_type: str
    domain: str
    output: str


@dataclass
class Context:
    """The model the graphs are of, and what is noted about its nodes: how many of each operator, and where each fx node came from."""

    weight: Weight | None
    functions: Mapping[FunctionKey, onnx.FunctionProto]
    opsets: Mapping[str, int]
    operators: Counter[str] = field(default_factory=Counter)
    sources: dict[fx.Node, SourceNode] = field(default_factory=dict)


class Scope:
    """Names visible at one place of the model, and the builder of the graph they are lowered to. ``attributes`` are those of the
    function call it is the body of."""

    def __init__(
        self,
        context: Context,
        builder: Builder,
        outer: Scope | None = None,
        opsets: Mapping[str, int] | None = None,
        attributes: Mapping[str, AttributeProto] | None = None,
    ) -> None:
        self.context = context
        self.builder = builder
        self.outer = outer
        self.opsets: Mapping[str, int] = opsets or (outer.opsets if outer else context.opsets)
        self.attributes: Mapping[str, AttributeProto] = attributes or (outer.attributes if outer else {})
        self.values: dict[str, Value | None] = {}

    def define(self, name: str, value: Value | None) -> None:
        self.values[name] = value

    def lookup(self, name: str) -> Value | None:
        """The value of ``name``, carried into this scope's graph if it comes from an outer one. Raises ``KeyError``."""
        if name in self.values:
            return self.values[name]
        if self.outer is None:
            raise KeyError(name)
        value = self.outer.lookup(name)
        if self.outer.builder is not self.builder and value is not None:
            value = self.builder.capture(value)
            self.define(name, value)
        return value

    def attribute(self, proto: AttributeProto) -> AttributeProto | None:
        """The attribute itself, or what it refers to in the function call around it (None: left to its default)."""
        return self.attributes.get(proto.ref_attr_name) if proto.ref_attr_name else proto
