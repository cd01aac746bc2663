"""What an ONNX graph may ask for, and the checks that run before anything of that size is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from modelguard_runtime.onnx.errors import HOSTILE, GraphLimitError

MAX_ELEMENTS = 1 << 31
"""Elements one tensor may have while the graph runs."""

MAX_LOOP_ITERATIONS = 10_000
"""Iterations all loops nested in one another may make together, each time the graph runs."""


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Bounds on one graph. ``folded`` counts the elements of all constants computed at import together; ``depth`` is the nesting of
    subgraphs and function calls; ``nodes`` counts after functions are inlined."""

    nodes: int = 200_000
    depth: int = 24
    folded: int = 1 << 28


def check_elements(what: str, shape: Iterable[int], limit: int = MAX_ELEMENTS) -> None:
    """Refuse a tensor of ``shape`` before it is allocated. Raises :class:`GraphLimitError`."""
    elements = prod(shape)
    if elements > limit:
        raise GraphLimitError(what, f"asks for a tensor of {elements} elements where {limit} are allowed", HOSTILE)
