"""Charts as inline SVG, made of numbers and escaped text. Colours are classes of the page's stylesheet, so that they follow its theme."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from modelguard._reporters.escape import shorten, visible

WIDTH, HEIGHT = 460, 190
WIDE = 900
"""The width of a map, which has many columns."""
LEFT, TOP, BOTTOM = 8, 22, 20
FEW_BARS = 60
"""Bars up to which each has a name and a tooltip of its own."""
LONG_NAME = 8
"""Letters from which names stand beside bars instead of below them."""
TOLD_BARS = 12
"""Bars up to which each says its value, where there is room."""
LETTER = 6.5
"""How wide a letter is."""
MAX_LAYERS = 200
_LAYER = re.compile(r"^(?P<before>.*?)(?:^|(?<=[./_]))(?P<layer>\d+)(?=[./_])(?P<after>.*)$")

Write = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """``height`` is what is drawn, ``text`` what is said of it."""

    label: str
    height: float
    text: str
    marked: bool = False


def bars(title: str, items: Sequence[Bar], line: tuple[float, str] | None = None) -> Markup:
    """A bar each. ``line`` is a height and what it stands for."""
    if len(items) <= FEW_BARS and any(len(item.label) > LONG_NAME for item in items):
        return _lying(title, items, line)
    low = min(0.0, *(item.height for item in items))
    top = max([*(item.height for item in items), *([line[0]] if line else []), 0.0])
    scale = (HEIGHT - TOP - BOTTOM) / ((top - low) or 1.0)
    step = (WIDTH - 2 * LEFT) / len(items)
    zero = TOP + top * scale
    told = len(items) <= TOLD_BARS and max(len(item.text) for item in items) * LETTER < step
    parts = []
    plain = []
    for n, item in enumerate(items):
        x, width = LEFT + n * step + step * 0.12, max(0.5, min(step * 0.76, 48))
        x += (step * 0.76 - width) / 2
        height = abs(item.height) * scale
        y = zero - height if item.height >= 0 else zero
        if len(items) > FEW_BARS and not item.marked:
            plain.append(f"M{x:.1f} {y:.1f}h{width:.1f}v{max(height, 0.5):.1f}h-{width:.1f}z")
            continue
        parts.append(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
                "hit" if item.marked else "bar", x, y, width, max(height, 1), f"{visible(item.label)}: {item.text}"
            )
        )
        name = "hit" if item.marked else ""
        if item.marked or told:
            anchor = "middle" if told else "end" if x > WIDTH * 0.9 else "start" if x < WIDTH * 0.05 else "middle"
            parts.append(_text(x + width / 2, y - 5, f"▼ {item.text}" if item.marked else item.text, anchor, name))
        if len(items) <= FEW_BARS and (item.marked or n % math.ceil(18 / step) == 0):
            parts.append(_text(x + width / 2, HEIGHT - 5, visible(item.label), "middle", name, limit=LONG_NAME))
    if plain:
        parts.insert(0, Markup('<path class="bar" d="{}"/>').format("".join(plain)))
        parts += [_text(LEFT, HEIGHT - 5, visible(items[0].label)), _text(WIDTH - LEFT, HEIGHT - 5, visible(items[-1].label), "end")]
    parts.append(_line(LEFT, zero, WIDTH - LEFT, zero, "axis"))
    if line:
        y = zero - line[0] * scale
        parts += [_line(LEFT, y, WIDTH - LEFT, y, "limit"), _text(WIDTH - LEFT, y - 4, line[1], "end", "limit")]
    return _svg(title, HEIGHT, parts)


def _lying(title: str, items: Sequence[Bar], line: tuple[float, str] | None) -> Markup:
    """Bars one below the other, names on their left."""
    names, row = 160, 20
    top = max([*(abs(item.height) for item in items), *([line[0]] if line else [])]) or 1.0
    scale = (WIDTH - names - 70) / top
    parts = []
    for n, item in enumerate(items):
        y, width = 4 + n * row, max(1.0, abs(item.height) * scale)
        name = "hit" if item.marked else "bar"
        parts += [
            _text(names - 8, y + 13, visible(item.label), "end", "hit" if item.marked else "", limit=24),
            Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
                name, names, y + 2, width, row - 6, f"{visible(item.label)}: {item.text}"
            ),
            _text(names + width + 6, y + 13, item.text),
        ]
    height = 8 + row * len(items)
    if line:
        x = names + line[0] * scale
        parts += [_line(x, 2, x, height - 2, "limit"), _text(x, height + 10, line[1], "middle", "limit")]
        height += 16
    return _svg(title, height, parts)


@dataclass(frozen=True)
class Curve:
    label: str
    points: Sequence[tuple[float, float]]
    marked: bool = False


def curves(title: str, items: Sequence[Curve]) -> Markup:
    """A line each, the marked ones on top and named."""
    xs = [x for item in items for x, _ in item.points]
    ys = [y for item in items for _, y in item.points]
    left, right, low, high = min(xs), max(xs), min(*ys, 0.0), max(*ys, 0.0)
    across = (WIDTH - 100) / ((right - left) or 1.0)
    up = (HEIGHT - TOP - BOTTOM) / ((high - low) or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return 44 + (x - left) * across, TOP + (high - y) * up

    parts = [_line(44, at(left, 0)[1], WIDTH - 56, at(left, 0)[1], "axis")]
    for y in (low, 0.0, high):
        parts.append(_text(38, at(left, y)[1] + 4, f"{y:.3g}", "end"))
    for item in sorted(items, key=lambda item: item.marked):
        places = [at(x, y) for x, y in sorted(item.points)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        name = "hit" if item.marked else "line"
        parts.append(Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(name, points, visible(item.label)))
        if item.marked or len(items) <= 4:
            parts.append(_text(places[-1][0] + 6, places[-1][1] + 4, visible(item.label), "start", name, limit=10))
    for x in sorted({left, right}):
        parts.append(_text(at(x, low)[0], HEIGHT - 5, f"{x:.3g}", "middle"))
    return _svg(title, HEIGHT, parts)


def layer_map(title: str, items: Mapping[str, float], write: Write, files: Iterable[str] = ()) -> Markup | None:
    """A grid of layers (across) and modules (down), shaded by the value of each tensor on a logarithmic scale; None without any tensor.

    A tensor's name may begin with one of ``files``: copies of a tensor in several files share a cell.
    """
    starts = tuple(f"{file}/" for file in files)
    cells: dict[tuple[str, int], tuple[float, str]] = {}
    for full, value in items.items():
        name = next((full.removeprefix(start) for start in starts if full.startswith(start)), full)
        module, layer = _place(name)
        if value > cells.get((module, layer), (0.0, ""))[0] and layer < MAX_LAYERS:
            cells[module, layer] = value, name
    if not cells:
        return None
    modules = sorted({module for module, _ in cells})
    layers = max(layer for _, layer in cells) + 1
    first = min(0, *(layer for _, layer in cells))  # -1: tensors in no layer
    side = max(4.0, min(26.0, (WIDE - 240) / (layers - first)))
    tall = min(side, 18.0) if side > 12 else 12.0
    logs = [math.log10(value) for value, _ in cells.values()]
    low, span = min(logs), max(logs) - min(logs)
    parts = [
        Markup('<rect class="grid" x="230" y="18" width="{:.1f}" height="{:.1f}"/>').format(side * (layers - first), tall * len(modules))
    ]
    for row, shown in enumerate(_short(modules)):
        parts.append(_text(224, 18 + row * tall + tall * 0.75, visible(shown), "end", limit=34))
    for (module, layer), (value, name) in sorted(cells.items()):
        share = 0.25 + 0.75 * (math.log10(value) - low) / span if span else 1.0
        x, y = 230 + (layer - first) * side, 18 + modules.index(module) * tall
        cell = Markup(
            '<rect class="hit" fill-opacity="{:.2f}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        )
        parts.append(cell.format(share, x, y, side - 1, tall - 1, _title(f"{visible(name)}: {write(value)}")))
    every = max(1, math.ceil((layers - first) * 24 / (WIDE - 240)))
    for layer in range(first, layers, every):
        parts.append(_text(230 + (layer - first + 0.5) * side, 12, "–" if layer < 0 else str(layer), "middle"))
    height = 18 + tall * len(modules) + 22
    key = f"faint {write(10**low)}, full {write(10 ** max(logs))}" if span else write(10**low)
    parts.append(_text(230, height - 6, f"across: layer; shade: {key}"))
    return _svg(title, height, parts, WIDE)


def _short(modules: Sequence[str]) -> Sequence[str]:
    """The part of each name behind the layer, without what all end in; the whole names where that says too little to tell them apart."""
    tails = [module.rpartition("*")[2].lstrip("./_") for module in modules]
    tails = [tail.removesuffix(".weight") for tail in tails] if all(tail.endswith(".weight") for tail in tails) else tails
    return tails if len(set(tails)) == len(modules) and all("." in tail or "/" in tail for tail in tails) else modules


def _place(name: str) -> tuple[str, int]:
    """Module and layer of a tensor, by its name; layer -1 where the name has no number between its parts."""
    found = _LAYER.match(name)
    return (name, -1) if found is None or len(found["layer"]) > 4 else (f"{found['before']}*{found['after']}", int(found["layer"]))


def _svg(title: str, height: float, parts: Iterable[Markup], width: int = WIDTH) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        width, height, visible(title), Markup("").join(parts)
    )


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _text(x: float, y: float, text: str, anchor: str = "start", name: str = "", limit: int = 200) -> Markup:
    return Markup('<text{} x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        Markup(' class="{}"').format(name) if name else "", x, y, anchor, shorten(text, limit)
    )


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(name, x1, y1, x2, y2)
