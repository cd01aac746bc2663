"""How people are shown what a detector measured: what its numbers are called and mean, and which are better looked at than read.

A detector declares both in ``shows``; they travel in the report, so that a reporter knows no detector and a stored report needs no plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["", "share", "bytes", "p"]
"""How a number is written: as it is; 0..1 in percent; as a size; as a p-value, of which the smaller is drawn the taller."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What stands under ``key``, anywhere in a detector's evidence or summary, or the attachment of that name: the ``name`` people use and
    one sentence of ``meaning``."""

    key: str
    name: str
    meaning: str
    unit: Unit = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of what stands under ``key`` in a detector's evidence, or in its summary.

    ========== ============================================================ ======================================================
    kind       what stands there                                            what is drawn
    ========== ============================================================ ======================================================
    ``bars``   rows, a mapping from label to number, or a list of numbers   a bar each
    ``curves`` rows whose ``value`` is a list of numbers                    a line each
    ``map``    rows whose ``label`` is a tensor's name                      a grid of layers and modules, shaded by ``value``
    ``words``  a list of words, or rows whose ``value`` is one              the words
    ========== ============================================================ ======================================================

    Rows are a list of mappings; ``label`` and ``value`` are their keys. ``line`` and ``marked`` are keys beside ``key``, or for what stands
    in the summary in the evidence of its findings too: the number a line is drawn at, and the label, or labels, to mark.
    """

    kind: Literal["bars", "curves", "map", "words"]
    key: str
    title: str
    label: str = ""
    value: str = ""
    unit: Unit = ""
    line: str = ""
    marked: str = ""


def keys(*values: Any) -> set[str]:
    """The keys of all mappings in ``values``, at any depth."""
    found: set[str] = set()
    for item in values:
        if isinstance(item, Mapping):
            found |= set(item) | keys(*item.values())
        elif isinstance(item, list | tuple):
            found |= keys(*item)
    return found


def measures(shows: Iterable[Measure | Chart]) -> dict[str, Measure]:
    """The measures among ``shows``, by key."""
    return {item.key: item for item in shows if isinstance(item, Measure)}


def charts(shows: Iterable[Measure | Chart]) -> list[Chart]:
    """The charts among ``shows``."""
    return [item for item in shows if isinstance(item, Chart)]
