"""Pictures that go with findings: a PNG writer, 8-bit grey or RGB, without a dependency (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard.findings import Attachment

LARGEST = 128
"""Pixels of the longest side of an exhibit: what a page and a JSON report carry a dozen of."""


def exhibit(name: str, pixels: npt.NDArray[Any], low: float, high: float) -> Attachment:
    """``pixels`` (C, H, W) in ``low``..``high`` as a PNG attachment; channels beyond the third are left out.

    It is for looking at: a side beyond :data:`LARGEST` is shrunk to it, by means of blocks.
    """
    unit = _shrunk((np.asarray(pixels, np.float64)[:3] - low) / (high - low))
    return Attachment(name, "image/png", png(np.clip(np.round(unit * 255), 0, 255).astype(np.uint8)))


def _shrunk(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(C, H, W) with means of square blocks in place of pixels, where a side is too long; the last block of a side may be cut."""
    block = -(-max(pixels.shape[1:]) // LARGEST)
    if block <= 1:
        return pixels
    for axis in (1, 2):
        starts = np.arange(0, pixels.shape[axis], block)
        lengths = np.diff(np.append(starts, pixels.shape[axis]))
        pixels = np.add.reduceat(pixels, starts, axis) / lengths.reshape([-1 if part == axis else 1 for part in range(3)])
    return pixels


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(C, H, W) uint8 as PNG bytes: grey from one or two channels, RGB from three or more."""
    shown = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    channels, height, width = shown.shape
    rows = shown.transpose(1, 2, 0).reshape(height, width * channels)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # filter type 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
