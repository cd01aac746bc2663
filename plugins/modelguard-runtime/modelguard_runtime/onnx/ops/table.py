"""The operator table: for each ONNX operator and the opset it changed in, the torch function that computes it.

An operator is a pure function of tensors. Its positional parameters are the operator's inputs in ONNX order (None where an optional
input is left out), its remaining parameters the attributes by name. Where an attribute became an input in a later opset, one
parameter serves both. The same function runs in the graph, folds constants, and tells shapes on torch's meta device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

ONNX, MICROSOFT, ML = "", "com.microsoft", "ai.onnx.ml"

NEWEST = {ONNX: 28, ML: 5, MICROSOFT: 1}
"""The newest opset of each domain that the table was tested against; a graph of a newer one is not run."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator from opset ``since`` on.

    ``ints`` names parameters passed as Python integers rather than tensors (shapes, axes, pads); ``scalars`` those passed as Python
    numbers when they are constants of rank 0. A function with a parameter ``like`` gets a tensor whose device it makes new tensors
    on; one with ``outputs`` gets the number of outputs the node names; one with ``element`` gets the ONNX element type of the input
    ``typed``, where the graph tells it (torch holds the types under 8 bits in wider ones). ``many`` says that it returns a tuple, one
    entry an output; a function that is not ``pure`` is never computed at import.
    """

    domain: str
    name: str
    since: int
    run: Callable[..., Any]
    ints: frozenset[str]
    scalars: frozenset[str]
    typed: str
    inputs: tuple[str, ...]
    parameters: frozenset[str]
    variadic: bool
    many: bool
    pure: bool

    def input(self, place: int) -> str:
        """The parameter that takes the input at ``place``; empty where one takes them all."""
        return "" if self.variadic else self.inputs[place]


TABLE: dict[tuple[str, str], list[Operator]] = {}


def op(
    *names: str,
    since: int = 1,
    domain: str = ONNX,
    ints: Iterable[str] = (),
    scalars: Iterable[str] = (),
    typed: str = "",
    pure: bool = True,
    attributes_of: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Register the decorated function for the operators ``names`` of ``domain`` from opset ``since`` on.

    ``attributes_of`` is the function that its ``**attributes`` go to.
    """

    def register(function: F) -> F:
        signature = inspect.signature(function)
        kinds = {name: p.kind for name, p in signature.parameters.items()}
        inputs = tuple(name for name, kind in kinds.items() if kind == inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = {name for name, kind in kinds.items() if kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)}
        if attributes_of is not None:
            parameters |= {n for n, p in inspect.signature(attributes_of).parameters.items() if p.kind == inspect.Parameter.KEYWORD_ONLY}
        variadic = inspect.Parameter.VAR_POSITIONAL in kinds.values()
        many = str(signature.return_annotation).startswith("tuple")
        for name in names:
            entry = Operator(
                domain=domain,
                name=name,
                since=since,
                run=function,
                ints=frozenset(ints),
                scalars=frozenset(scalars),
                typed=typed,
                inputs=inputs,
                parameters=frozenset(parameters),
                variadic=variadic,
                many=many,
                pure=pure,
            )
            TABLE.setdefault((domain, name), []).append(entry)
            TABLE[domain, name].sort(key=lambda o: -o.since)
        return function

    return register


def find(domain: str, name: str, opset: int) -> Operator | None:
    """The operator as of ``opset``, or None when the table does not have it."""
    return next((entry for entry in TABLE.get((domain, name), ()) if entry.since <= opset), None)
