"""Pictures that go with findings: a PNG writer, 8-bit grey or RGB, without a dependency (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard.findings import Attachment


def exhibit(name: str, pixels: npt.NDArray[Any], low: float, high: float) -> Attachment:
    """``pixels`` (C, H, W) in ``low``..``high`` as a PNG attachment; channels beyond the third are left out."""
    unit = (np.asarray(pixels, np.float64) - low) / (high - low)
    return Attachment(name, "image/png", png(np.clip(np.round(unit * 255), 0, 255).astype(np.uint8)))


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
