"""How a detector's numbers are shown, as JSON: written here and read here, in a report and in the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from modelguard.display import Chart, Measure, charts, measures


def write_shows(shows: Iterable[Measure | Chart]) -> dict[str, Any]:
    """Measures and charts as plain JSON values."""
    shows = tuple(shows)
    return {"measures": [write_shown(item) for item in measures(shows).values()], "charts": [write_shown(item) for item in charts(shows)]}


def write_shown(item: Measure | Chart) -> dict[str, Any]:
    """One of them, without what is left at its default."""
    defaults = {field.name: field.default for field in fields(item)}
    return {key: value for key, value in asdict(item).items() if value != defaults[key]}


def read_shown(data: Mapping[str, Any]) -> Measure | Chart:
    """What :func:`write_shown` wrote: only a chart has a kind."""
    return Chart(**data) if "kind" in data else Measure(**data)


def read_shows(data: Mapping[str, Any]) -> tuple[Measure | Chart, ...]:
    """What :func:`write_shows` wrote."""
    return (*(Measure(**item) for item in data["measures"]), *(Chart(**item) for item in data["charts"]))
