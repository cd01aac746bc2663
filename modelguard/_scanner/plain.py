"""Frozen dataclasses as plain JSON values and back, for what the parent asks of a worker. The parent wrote it, so nothing is checked.

A library for this (pydantic, which reports and policies are read with) takes longer to import than a worker takes to open a small model.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any


def to_plain(value: Any) -> Any:
    """``value`` with dataclasses as objects, tuples as lists and paths as strings."""
    kind: Any = type(value)
    if kind is str or kind is int or value is None:
        return value
    if (names := _names(kind)) is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@cache
def _names(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass, or None for any other class."""
    return tuple(item.name for item in fields(kind)) if is_dataclass(kind) else None


def from_plain(kind: Any, value: Any) -> Any:
    """The value of the annotated type ``kind`` that :func:`to_plain` made ``value`` of."""
    make = _maker(kind)
    return value if make is None else make(value)


@cache
def _maker(kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of the annotated type ``kind`` of a plain one; None where that is the value itself."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        one = _maker(next(item for item in inner if item is not types.NoneType))
        return None if one is None else lambda value: None if value is None else one(value)
    if origin is tuple:
        each = _maker(inner[0])
        return tuple if each is None else lambda value: tuple(map(each, value))
    if isinstance(kind, type) and is_dataclass(kind):
        parts = {name: _maker(hint) for name, hint in typing.get_type_hints(kind).items()}
        made: Callable[..., Any] = kind
        return lambda value: made(**{name: item if (part := parts[name]) is None else part(item) for name, item in value.items()})
    return Path if kind is Path else None
