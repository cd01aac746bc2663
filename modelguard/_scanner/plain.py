"""Frozen dataclasses as plain JSON values and back, for what the parent asks of a worker. The parent wrote it, so nothing is checked.

A library for this (pydantic, which reports and policies are read with) takes longer to import than a worker takes to open a small model.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any


def to_plain(value: Any) -> Any:
    """``value`` with dataclasses as objects, tuples as lists and paths as strings."""
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: Any, value: Any) -> Any:
    """The value of the annotated type ``kind`` that :func:`to_plain` made ``value`` of."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else from_plain(next(item for item in inner if item is not types.NoneType), value)
    if origin is tuple:
        return tuple(from_plain(inner[0], item) for item in value)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    return Path(value) if kind is Path else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
