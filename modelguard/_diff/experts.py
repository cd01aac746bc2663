"""Experts of a mixture that one side stores one by one and the other stacked in one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from modelguard._diff import content
from modelguard._diff.pairing import WHOLE, Pairing, Place, View

Places = dict[str, Place]

_ONE = re.compile(r"(?P<before>.*\.experts(?:\.mlp)?)\.(?P<number>\d{1,5})\.(?P<part>\w+?)(?P<kind>\.weight|\.bias)?")
_STACKED = re.compile(r"(?P<before>.*\.experts(?:\.mlp)?)\.(?P<part>\w+?)(?P<kind>\.weight|[._]bias)?")
_LAYER = re.compile(r"\.(block_sparse_moe|mlp|ffn|feed_forward|moe)\.experts(\.mlp)?$")
"""What a mixture is called within its layer (Mixtral and Qwen, DBRX, Llama 4): libraries that stack experts rename it as well."""
_GATE, _UP, _DOWN = ("gate_proj", "w1"), ("up_proj", "w3", "v1"), ("down_proj", "w2")
_PARTS = {"gate_up_proj": (_GATE, _UP), **{name: (names,) for names in (_GATE, _UP, _DOWN) for name in names}}
"""The parts that a stacked tensor holds beside each other, by the names that experts have for them."""


def stacked(old: Places, new: Places) -> Iterator[Pairing]:
    """Pair stacked experts with those that are stored one by one; what is paired leaves ``old`` and ``new``."""
    for whole, single, whole_is_old in ((old, new, True), (new, old, False)):
        experts: dict[tuple[str, str, bool], dict[int, str]] = {}
        for name in single:
            if match := _ONE.fullmatch(name):
                key = (_layer(match["before"]), match["part"], match["kind"] == ".bias")
                experts.setdefault(key, {})[int(match["number"])] = name
        for name in sorted(whole) if experts else ():
            match = _STACKED.fullmatch(name)
            if match is None:
                continue
            bias = (match["kind"] or "").endswith("bias")
            found = []
            for names in _PARTS.get(match["part"], ((match["part"],),)):
                known = (experts.get((_layer(match["before"]), part, bias), {}) for part in names)
                found.append(next((numbers for numbers in known if any(one in single for one in numbers.values())), {}))
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


def _layer(before: str) -> str:
    return _LAYER.sub(".experts", before)


def _views(shape: tuple[int, ...], found: list[dict[int, str]], single: Mapping[str, Place]) -> list[dict[str, View]] | None:
    """Where each expert lies in a stack of ``shape``, in each of the layouts that fit; None where none does.

    Of each expert one part lies behind the other, or their rows take turns (gpt-oss); each as it is, or transposed.
    """
    numbers = list(range(len(found[0])))
    if not numbers or any(sorted(part) != numbers for part in found):
        return None
    shapes = {single[name].shape for part in found for name in part.values()}
    if len(shapes) != 1:
        return None
    # A bias is a column, and compared as a row; experts that follow each other along the rows are a stack as well (DBRX).
    one = next(iter(shapes))
    bias = len(one) == 1
    one = (*one, 1) if bias else one
    if bias and len(shape) == 2:
        shape = (*shape, 1)
    elif len(shape) == 2 and shape[0] % len(numbers) == 0:
        shape = (len(numbers), shape[0] // len(numbers), shape[1])
    if len(one) != 2 or len(shape) != 3 or shape[0] != len(numbers):
        return None
    parts, (count, rows, columns) = len(found), shape
    as_matrix = (count * rows, columns)
    layouts: list[dict[str, View]] = []
    for turns in (False, True) if parts > 1 else (False,):
        # Each part's share of the rows, or of the columns.
        spans = [(at, parts * one[0], parts) if turns else (at * one[0], (at + 1) * one[0], 1) for at in range(parts)]
        places = [(part[number], number * rows, span) for part, span in zip(found, spans, strict=True) for number in numbers]
        if (rows, columns) == (parts * one[0], one[1]):
            layouts.append({name: View((at + span[0], at + span[1], span[2]), None, bias, as_matrix) for name, at, span in places})
        if not bias and (rows, columns) == (one[1], parts * one[0]):
            layouts.append({name: View((at, at + rows, 1), span, True, as_matrix) for name, at, span in places})
    return layouts or None


def _fits(stack: Place, single: Mapping[str, Place], layout: Mapping[str, View]) -> float:
    name, view = next(iter(layout.items()))
    return content.affinity(view.open(stack), WHOLE.open(single[name]))
