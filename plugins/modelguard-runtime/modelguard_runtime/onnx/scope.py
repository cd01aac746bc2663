"""Names of an ONNX graph while it is built, and what the builders of one model share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx
from onnx import AttributeProto
from torch import fx, nn

from modelguard_runtime.onnx.hints import Hints
from modelguard_runtime.onnx.limits import GraphLimits
from modelguard_runtime.onnx.structure import FunctionKey
from modelguard_runtime.onnx.types import Weight
from modelguard_runtime.onnx.values import Const, Value

if TYPE_CHECKING:
    from modelguard_runtime.onnx.builder import Builder


@dataclass(frozen=True, slots=True)
class SourceNode:
    """The ONNX node an fx node came from; ``output`` is the ONNX name of the value."""

    name: str
    op_type: str
    domain: str
    output: str


@dataclass
class Context:
    """What the builders of one model's graphs share."""

    weight: Weight | None
    limits: GraphLimits
    hints: Hints
    functions: Mapping[FunctionKey, onnx.FunctionProto]
    opsets: Mapping[str, int]
    operators: Counter[str] = field(default_factory=Counter)
    sources: dict[fx.Node, SourceNode] = field(default_factory=dict)
    parameters: dict[Const, nn.Parameter] = field(default_factory=dict)
    elements: dict[fx.Node, int] = field(default_factory=dict)
    folded: int = 0

    def element(self, value: Value | None) -> int:
        """The ONNX element type of a value, 0 where the graph does not tell."""
        return value.element if isinstance(value, Const) else self.elements.get(value, 0) if isinstance(value, fx.Node) else 0


class Scope:
    """Names visible at one place of the graph. ``attributes`` are those of the function call it is the body of."""

    def __init__(self, builder: Builder, outer: Scope | None = None, opsets: Mapping[str, int] | None = None) -> None:
        self.builder = builder
        self.outer = outer
        self.opsets: Mapping[str, int] = opsets or (outer.opsets if outer else builder.context.opsets)
        self.attributes: Mapping[str, AttributeProto] = outer.attributes if outer else {}
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
