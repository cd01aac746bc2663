"""What detectors declare to be drawn, drawn: from a :class:`~modelguard.display.Chart` and the numbers it names to a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from modelguard._reporters.charts import Bar, Curve, bars, curves, layer_map
from modelguard._reporters.escape import visible
from modelguard._reporters.numbers import written
from modelguard.display import Chart, Measure

SMALLEST_P = 1e-12
MAX_BARS = 2000
MAX_CURVES = 60
MAX_WORDS = 24


@dataclass(frozen=True)
class Drawing:
    """A picture, or ``words``, under its title."""

    title: str
    svg: Markup | None = None
    words: tuple[str, ...] = ()
    wide: bool = False


def draw(
    chart: Chart, values: Mapping[str, Any], marks: Iterable[Mapping[str, Any]], known: Mapping[str, Measure], files: Iterable[str] = ()
) -> Drawing | None:
    """``chart`` of ``values``, which hold its key and its line; what to mark is in any of ``marks``. None where nothing can be drawn."""
    if chart.key not in values:
        return None
    marked = {str(label) for item in marks if chart.marked for label in _labels(item.get(chart.marked))}
    pairs = list(_pairs(chart, values[chart.key]))
    write = partial(written, unit=chart.unit)
    title = visible(chart.title)
    if chart.kind == "words":
        words = tuple(visible(str(part)) for _, item in pairs for part in (item if isinstance(item, list | tuple) else [item]))
        return Drawing(title, words=words[:MAX_WORDS]) if words else None
    if chart.kind == "curves":
        lines = [Curve(label, points, label in marked) for label, item in pairs if (points := _points(item))]
        lines.sort(key=lambda item: not item.marked)
        return Drawing(title, curves(title, lines[:MAX_CURVES])) if lines else None
    numbers = {label: float(item) for label, item in pairs if _is_number(item)}
    if chart.kind == "map":
        svg = layer_map(title, {label: number for label, number in numbers.items() if number > 0}, write, files)
        return Drawing(title, svg, wide=True) if svg is not None else None
    if len(numbers) < 2:
        return None
    height = _height_of_p if chart.unit == "p" else float
    made = [Bar(label, height(number), write(number), label in marked) for label, number in list(numbers.items())[:MAX_BARS]]
    limit = values.get(chart.line) if chart.line else None
    line = None
    if isinstance(limit, int | float) and _is_number(limit):
        name = known[chart.line].name if chart.line in known else chart.line
        line = (height(float(limit)), f"{visible(name)} {write(limit)}")
    return Drawing(title, bars(title, made, line))


def _height_of_p(p: float) -> float:
    return -math.log10(max(p, SMALLEST_P)) if p > 0 else -math.log10(SMALLEST_P)


def _labels(item: Any) -> list[Any]:
    return list(item) if isinstance(item, list | tuple) else [] if item is None else [item]


def _pairs(chart: Chart, item: Any) -> Iterator[tuple[str, Any]]:
    """Labels and values of what stands under the chart's key, whatever of the forms it has."""
    if isinstance(item, Mapping):
        if chart.value and chart.value in item:
            yield chart.value, item[chart.value]
        else:
            yield from ((str(key), part) for key, part in item.items())
    elif isinstance(item, list | tuple):
        for number, part in enumerate(item, 1):
            if isinstance(part, Mapping):
                if chart.value in part:
                    yield str(part.get(chart.label, number)), part[chart.value]
            else:
                yield str(number), part


def _points(item: Any) -> list[tuple[float, float]]:
    """Pairs of numbers; a plain list of numbers is taken over 0, 1, 2, ..."""
    if not isinstance(item, list | tuple):
        return []
    if all(_is_number(part) for part in item):
        return [(float(x), float(y)) for x, y in enumerate(item)]
    pairs = [part for part in item if isinstance(part, list | tuple) and len(part) == 2 and all(map(_is_number, part))]
    return [(float(x), float(y)) for x, y in pairs]


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)
