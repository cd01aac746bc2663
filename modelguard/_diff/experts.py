"""Experts of a mixture that one side stores one by one and the other stacked in one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from modelguard._diff import content
from modelguard._diff.pairing import WHOLE, Pairing, Place, View

Places = dict[str, Place]

_ONE = re.compile(r"(?P<before>.*\.experts)\.(?P<number>\d{1,5})\.(?P<part>\w+?)(?:\.weight)?")
_STACKED = re.compile(r"(?P<before>.*\.experts)\.(?P<part>\w+?)(?:\.weight)?")
_PARTS = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
"""The parts that a stacked tensor holds beside each other, by the names that its experts have for them (Qwen, DeepSeek; Mixtral)."""


def stacked(old: Places, new: Places) -> Iterator[Pairing]:
    """Pair stacked experts with those that are stored one by one; what is paired leaves ``old`` and ``new``."""
    for whole, single, whole_is_old in ((old, new, True), (new, old, False)):
        experts: dict[tuple[str, str], dict[int, str]] = {}
        for name in single:
            if match := _ONE.fullmatch(name):
                experts.setdefault((match["before"], match["part"]), {})[int(match["number"])] = name
        for name in sorted(whole) if experts else ():
            match = _STACKED.fullmatch(name)
            if match is None or len(whole[name].shape) != 3:
                continue
            for parts in (*_PARTS.get(match["part"], ()), (match["part"],)):
                found = [experts.get((match["before"], part), {}) for part in parts]
                views = _views(whole[name].shape, found, single)
                if views is None:
                    continue
                stack = whole.pop(name)
                for expert, view in max(views, key=lambda layout: _fits(stack, single, layout)).items():
                    one = single.pop(expert)
                    if whole_is_old:
                        yield Pairing(one.name, stack, one, "fused", view)
                    else:
                        number = _ONE.fullmatch(expert)
                        assert number is not None
                        yield Pairing(f"{stack.name}[{number['number']}.{number['part']}]", one, stack, "fused", WHOLE, view)
                break


def _views(shape: tuple[int, ...], found: list[dict[int, str]], single: Mapping[str, Place]) -> list[dict[str, View]] | None:
    """Where each expert lies in a stack of ``shape``, in each of the layouts that fit; None where none does."""
    count, rows, columns = shape
    numbers = list(range(count))
    if any(sorted(part) != numbers for part in found):
        return None
    shapes = {single[name].shape for part in found for name in part.values()}
    if len(shapes) != 1 or len(one := next(iter(shapes))) != 2:
        return None
    layouts: list[dict[str, View]] = []
    parts = len(found)
    as_matrix = (count * rows, columns)
    if (rows, columns) == (parts * one[0], one[1]):
        layouts.append(
            {
                part[number]: View(rows=(number * rows + at * one[0], number * rows + (at + 1) * one[0]), shape=as_matrix)
                for at, part in enumerate(found)
                for number in numbers
            }
        )
    if (rows, columns) == (one[1], parts * one[0]):
        layouts.append(
            {
                part[number]: View((number * rows, (number + 1) * rows), (at * one[0], (at + 1) * one[0]), True, as_matrix)
                for at, part in enumerate(found)
                for number in numbers
            }
        )
    return layouts or None


def _fits(stack: Place, single: Mapping[str, Place], layout: Mapping[str, View]) -> float:
    name, view = next(iter(layout.items()))
    return content.affinity(view.open(stack), WHOLE.open(single[name]))
