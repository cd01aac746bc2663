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

ONNX, MICROSOFT, ML, PREVIEW = "", "com.microsoft", "ai.onnx.ml", "ai.onnx.preview"

NEWEST = {ONNX: 28, ML: 5, MICROSOFT: 1, PREVIEW: 1}
"""The newest opset of each domain that the table was tested against; a graph of a newer one is not run."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator from opset ``since`` on.

    ``ints`` names parameters passed as Python integers rather than tensors (shapes, axes, pads); ``scalars`` those passed as Python
    numbers when they are constants of rank 0. A function with a parameter ``like`` gets a tensor whose device it makes new tensors
    on; one with ``outputs`` gets the number of outputs the node names. ``many`` says that it returns a tuple, one entry an output.
    """

    domain: str
    name: str
    since: int
    run: Callable[..., Any]
    ints: frozenset[str]
    scalars: frozenset[str]
    parameters: tuple[str, ...]
    variadic: bool
    many: bool
    pure: bool


TABLE: dict[tuple[str, str], list[Operator]] = {}


def op(
    *names: str, since: int = 1, domain: str = ONNX, ints: Iterable[str] = (), scalars: Iterable[str] = (), pure: bool = True
) -> Callable[[F], F]:
    """Register the decorated function for the operators ``names`` of ``domain`` from opset ``since`` on."""

    def register(function: F) -> F:
        signature = inspect.signature(function)
        positional = tuple(
            name for name, p in signature.parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        variadic = any(p.kind == p.VAR_POSITIONAL for p in signature.parameters.values())
        many = str(signature.return_annotation).startswith("tuple")
        for name in names:
            entry = Operator(domain, name, since, function, frozenset(ints), frozenset(scalars), positional, variadic, many, pure)
            TABLE.setdefault((domain, name), []).append(entry)
            TABLE[domain, name].sort(key=lambda o: -o.since)
        return function

    return register


def find(domain: str, name: str, opset: int) -> Operator | None:
    """The operator as of ``opset``, or None when the table has not got it."""
    return next((entry for entry in TABLE.get((domain, name), ()) if entry.since <= opset), None)
