"""Putting back together what exporters take apart, so that the graph runs like the module it came from."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import fx, nn


def fuse(graph: fx.Graph, root: nn.Module, sources: MutableMapping[fx.Node, Any]) -> None:
    """Replace known patterns by torch's own functions, in place."""
