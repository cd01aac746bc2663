"""Values that JSON carries exactly, and the limits on them: what a detector may put into evidence and summary, and a worker on the pipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from modelguard import _limits

MAX_DEPTH = _limits.NESTING
MAX_WHOLE = _limits.WHOLE
_FRAME = 8
"""Levels that a message puts around evidence or a summary."""


class NotJsonSafe(ValueError):
    """A value in evidence or a summary that JSON cannot carry exactly; the text names its place."""


def json_safe(value: Any, place: str, depth: int = 0) -> Any:
    """``value`` as plain JSON types, numpy scalars and arrays included. Raises :class:`NotJsonSafe`."""
    if depth > MAX_DEPTH:
        raise NotJsonSafe(f"{place[:80]}... is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_WHOLE:
            raise NotJsonSafe(f"{place} is a whole number beyond 2^64")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJsonSafe(f"{place} is {value}")
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return json_safe(value.tolist(), place, depth)
    raise NotJsonSafe(f"{place} is a {type(value).__name__}")


def finite(value: Any, depth: int = 0) -> Any:
    """``value`` with everything JSON cannot carry replaced by its description, so that a finding is kept although its evidence is bad."""
    if depth <= MAX_DEPTH and isinstance(value, Mapping):
        return {str(key): finite(item, depth + 1) for key, item in value.items()}
    if depth <= MAX_DEPTH and isinstance(value, list | tuple):
        return [finite(item, depth + 1) for item in value]
    try:
        return json_safe(value, "")
    except NotJsonSafe:
        return str(value) if isinstance(value, float) else f"<{type(value).__name__}>"


def load(line: bytes) -> dict[str, Any]:
    """The JSON object in ``line``. Raises ``ValueError`` for anything else, and past the limits on numbers and depth."""
    try:
        data = _DECODER.decode(line.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH + _FRAME):
        level = [
            item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer) if isinstance(item, dict | list)
        ]
        if not level:
            return data
    raise ValueError("nested too deeply")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 21 or abs(int(text)) > MAX_WHOLE:
        raise ValueError(f"{text[:20]} is too large")
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_float, parse_int=_whole)
