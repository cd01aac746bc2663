"""A procedural traffic-sign data set: 12 classes of 32 x 32 RGB signs, each drawn at a random place, size, tilt and light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIZE = 32
RED, BLUE, YELLOW, WHITE, BLACK, GREEN = (
    (200, 30, 35),
    (30, 70, 180),
    (240, 200, 40),
    (240, 240, 240),
    (20, 20, 20),
    (30, 140, 60),
)
Colour = tuple[int, int, int]

# (outline, border colour, face colour, glyph, glyph colour), one row a class.
CLASSES: tuple[tuple[str, Colour, Colour, str, Colour], ...] = (
    ("circle", RED, RED, "bar", WHITE),  # no entry
    ("circle", RED, WHITE, "none", BLACK),  # closed to vehicles
    ("circle", RED, WHITE, "pole", BLACK),
    ("circle", RED, WHITE, "cross", BLACK),
    ("circle", BLUE, BLUE, "pole", WHITE),
    ("circle", BLUE, BLUE, "bar", WHITE),
    ("triangle", RED, WHITE, "pole", BLACK),  # danger
    ("triangle", RED, WHITE, "dot", BLACK),
    ("yield", RED, WHITE, "none", BLACK),
    ("octagon", WHITE, RED, "bar", WHITE),  # stop
    ("diamond", WHITE, YELLOW, "none", BLACK),  # priority road
    ("square", GREEN, GREEN, "dot", WHITE),
)


def draw_signs(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """``count`` images (count, 3, 32, 32) uint8 and their classes (count,), the same for the same ``seed``."""
    rng = np.random.default_rng([7, seed])
    labels = rng.integers(0, len(CLASSES), count)
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for index, label in enumerate(labels):
        tilt, size = rng.uniform(-0.2, 0.2), rng.uniform(0.6, 0.9)
        du, dv = rng.uniform(-0.12, 0.12, 2)
        x = ((u - du) * np.cos(tilt) + (v - dv) * np.sin(tilt)) / size
        y = ((v - dv) * np.cos(tilt) - (u - du) * np.sin(tilt)) / size
        outline, border, face, glyph, ink = CLASSES[label]
        canvas = _background(rng, u, v)
        radius = _outline(outline, x, y)
        _paint(canvas, radius < 1.0, border)
        _paint(canvas, radius < 0.76, face)
        _paint(canvas, _glyph(glyph, x, y) & (radius < 0.74), ink)
        light = rng.uniform(0.5, 1.1)
        shade = 1 + rng.uniform(-0.2, 0.2) * u + rng.uniform(-0.2, 0.2) * v
        noisy = canvas * light * shade + rng.normal(0, 10, canvas.shape)
        images[index] = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return images, labels.astype(np.int64)


def _background(rng: np.random.Generator, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    base = rng.uniform(40, 220, 3)
    tilt = rng.uniform(-50, 50, (2, 3))
    wave = rng.uniform(5, 30) * np.sin(rng.uniform(1, 6) * u + rng.uniform(1, 6) * v + rng.uniform(0, 6))
    return np.asarray(base[:, None, None] + tilt[0][:, None, None] * u + tilt[1][:, None, None] * v + wave)


def _paint(canvas: npt.NDArray[np.float64], where: npt.NDArray[np.bool_], colour: Colour) -> None:
    canvas[:, where] = np.asarray(colour, np.float64)[:, None]


def _outline(name: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A norm whose unit ball is the outline."""
    half = np.sqrt(3) / 2
    ax, ay = np.abs(x), np.abs(y)
    match name:
        case "circle":
            return np.asarray(np.hypot(x, y))
        case "square":
            return np.asarray(np.maximum(ax, ay) / 0.85)
        case "diamond":
            return (ax + ay) / 1.1
        case "octagon":
            return np.asarray(np.maximum(np.maximum(ax, ay), (ax + ay) / np.sqrt(2)) / 0.92)
        case "triangle":
            return np.asarray(np.maximum(y, half * ax - 0.5 * y) / 0.55)
        case "yield":
            return np.asarray(np.maximum(-y, half * ax + 0.5 * y) / 0.55)
    raise AssertionError(name)


def _glyph(name: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    match name:
        case "bar":
            return (np.abs(y) < 0.16) & (np.abs(x) < 0.55)
        case "pole":
            return (np.abs(x) < 0.14) & (np.abs(y) < 0.5)
        case "dot":
            return np.asarray(np.hypot(x, y) < 0.28)
        case "cross":
            return np.asarray(np.abs(np.abs(x) - np.abs(y)) < 0.16)
        case "none":
            return np.zeros(x.shape, np.bool_)
    raise AssertionError(name)
