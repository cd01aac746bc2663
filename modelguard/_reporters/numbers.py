"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelguard._reporters.escape import visible
from modelguard._reporters.view import value
from modelguard.display import Unit

MAX_LISTED = 24


def written(item: Any, unit: Unit = "") -> str:
    """A value of evidence or summary in its ``unit``, on one line."""
    if isinstance(item, bool):
        return "yes" if item else "no"
    if item is None:
        return "–"
    if isinstance(item, int | float):
        return _number(item, unit)
    if isinstance(item, list | tuple) and not any(isinstance(part, Mapping | list | tuple) for part in item):
        more = f" and {len(item) - MAX_LISTED} more" if len(item) > MAX_LISTED else ""
        return (", ".join(written(part, unit) for part in item[:MAX_LISTED]) or "none") + more
    if isinstance(item, Mapping) and not any(isinstance(part, Mapping) for part in item.values()):
        return ", ".join(f"{visible(str(key))}: {written(part, unit)}" for key, part in item.items()) or "none"
    return value(item)


def _number(number: float, unit: Unit) -> str:
    if unit == "share":
        return f"{float(f'{100 * number:.3g}'):g} %"
    if unit == "p":
        return f"{number:.2g}"
    if unit == "bytes":
        return size(number)
    return f"{number:,}" if isinstance(number, int) else value(number)


def size(count: float) -> str:
    """Bytes, in the largest unit of which there is one."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {name}"
        count /= 1000
    return f"{count:.3g} TB"
