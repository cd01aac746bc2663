"""The types of GGUF tensors, and what block-quantised ones stand for.

Source: llama.cpp's block layouts (``ggml/src/ggml-common.h``) and how it dequantises them (``dequantize_row_*`` of
``ggml/src/ggml-quants.c``), which ``quants.py`` of the ``gguf`` package 0.19 restates in numpy. The arithmetic is float32 in the same
order as there, so that results are equal bit for bit; a test compares the two on random blocks.

An entry is the scale of its group times a level, plus the group's offset where the type has one. Each function takes blocks as an array
(n, bytes of a block) of uint8 and returns scales (n, groups), levels (n, groups, entries of a group) and offsets (n, groups), float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard_serialization._formats.gguf_grids import GRIDS, SIGNS

Bytes = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Parts = tuple[F32, F32, F32 | None]
Blocks = Callable[[Bytes], Parts]

CHUNK = 1 << 16
"""Entries that are dequantised at a time."""
_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""kvalues_iq4nl: the levels of IQ4_NL and IQ4_XS."""
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""The levels of MXFP4 and NVFP4, doubled (OCP Microscaling Formats 1.0, section 5.3.3)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A tensor type: ``block`` entries take ``size`` bytes. ``dtype`` is what they are read as.

    ``blocks`` dequantises, and is None for types that need none. Levels lie between ``ends``, at most ``gap`` apart; ``bits`` and ``reach``
    are those of :class:`modelguard.Quantization`.
    """

    name: str
    block: int
    size: int
    dtype: str = "F32"
    blocks: Blocks | None = None
    bits: int = 0
    ends: tuple[float, float] = (0.0, 0.0)
    gap: float = 1.0
    reach: float = 0.5


def dequantise(raw: memoryview, kind: Kind, count: int) -> F32:
    """``count`` entries from blocks of ``kind``, chunk by chunk."""
    out = np.empty(count, np.float32)
    for begin, end, (scale, levels, offset) in _chunks(raw, kind):
        with np.errstate(all="ignore"):
            values = scale[..., None] * levels
            if offset is not None:
                values += offset[..., None]
        out[begin:end] = values.reshape(-1)
    return out


def ranges(raw: memoryview, kind: Kind) -> tuple[int, F32, F32, F32]:
    """Entries of a group, and for every group its step, its lowest and its highest value."""
    found: list[F32] = [np.empty((3, 0), np.float32)]
    group = kind.block
    for _, _, (scale, levels, offset) in _chunks(raw, kind):
        group = levels.shape[-1]
        with np.errstate(all="ignore"):
            ends = np.sort([scale * np.float32(end) + (0 if offset is None else offset) for end in kind.ends], axis=0)
            found.append(np.stack([np.abs(scale) * np.float32(kind.gap), *ends]).reshape(3, -1))
    step, low, high = np.concatenate(found, axis=1)
    return group, step, low, high


def _chunks(raw: memoryview, kind: Kind) -> Iterator[tuple[int, int, Parts]]:
    assert kind.blocks is not None
    table = np.frombuffer(raw, np.uint8).reshape(-1, kind.size)
    rows = max(1, CHUNK // kind.block)
    for start in range(0, len(table), rows):
        part = table[start : start + rows]
        with np.errstate(all="ignore"):  # scales may be infinite or no number
            yield start * kind.block, (start + len(part)) * kind.block, kind.blocks(part)


def _half(blocks: Bytes, at: int) -> F32:
    """The float16 at byte ``at`` of each block, (n, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _bits(values: npt.NDArray[Any], width: int, shifts: range | tuple[int, ...]) -> npt.NDArray[Any]:
    """``width`` bits from each of ``shifts``: an axis of them before the last one of ``values``."""
    moves = np.array(shifts, values.dtype).reshape(-1, 1)
    return np.asarray((values[..., None, :] >> moves) & values.dtype.type((1 << width) - 1))


def _low_high(blocks: Bytes, at: int, length: int) -> Bytes:
    """Nibbles of ``length`` bytes: (n, 2 * length), the low ones of all first."""
    return _bits(blocks[:, at : at + length], 4, (0, 4)).reshape(len(blocks), -1)


def _fifth(blocks: Bytes, at: int) -> Bytes:
    """The 32 bits from byte ``at`` on, one an entry, as 0 or 16."""
    word = np.ascontiguousarray(blocks[:, at : at + 4]).view(np.uint32)
    return (_bits(word, 1, range(32)).reshape(len(blocks), 32) << 4).astype(np.uint8)


def _plain(scale: F32, levels: npt.NDArray[Any], offset: F32 | None = None) -> Parts:
    """One group a block: ``scale`` (n, 1) and ``levels`` (n, entries)."""
    return scale, levels.astype(np.float32)[:, None, :], offset


def _q1_0(blocks: Bytes) -> Parts:
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, 2:18]), axis=1, bitorder="little")
    return _plain(_half(blocks, 0), bits.astype(np.int8) * np.int8(2) - np.int8(1))


def _q4_0(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), _low_high(blocks, 2, 16).astype(np.int8) - np.int8(8))


def _q4_1(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), _low_high(blocks, 4, 16), _half(blocks, 2))


def _q5_0(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), (_low_high(blocks, 6, 16) | _fifth(blocks, 2)).astype(np.int8) - np.int8(16))


def _q5_1(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), _low_high(blocks, 8, 16) | _fifth(blocks, 4), _half(blocks, 2))


def _q8_0(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), blocks[:, 2:34].view(np.int8))


def _q8_k(blocks: Bytes) -> Parts:
    return _plain(np.ascontiguousarray(blocks[:, :4]).view(np.float32), blocks[:, 4:260].view(np.int8))


def _q2_k(blocks: Bytes) -> Parts:
    n, packed = len(blocks), blocks[:, :16]
    scale = _half(blocks, 80) * (packed & 15).astype(np.float32)
    least = _half(blocks, 82) * (packed >> 4).astype(np.float32)
    levels = _bits(blocks[:, 16:80].reshape(n, 2, 32), 2, (0, 2, 4, 6)).reshape(n, 16, 16)
    return scale, levels.astype(np.float32), -least


def _q3_k(blocks: Bytes) -> Parts:
    n = len(blocks)
    low = _bits(blocks[:, 96:104], 4, (0, 4)).reshape(n, 16)
    high = _bits(blocks[:, 104:108], 2, (0, 2, 4, 6)).reshape(n, 16)
    scale = _half(blocks, 108) * ((low | (high << 4)).astype(np.int8) - np.int8(32)).astype(np.float32)
    levels = _bits(blocks[:, 32:96].reshape(n, 2, 32), 2, (0, 2, 4, 6)).reshape(n, 16, 16).astype(np.int8)
    kept = _bits(blocks[:, :32], 1, range(8)).reshape(n, 16, 16).astype(np.int8)
    levels = levels - ((kept ^ 1) << 2)
    return scale, levels.astype(np.float32), None


def _six(blocks: Bytes) -> tuple[F32, F32]:
    """Eight scales and eight minimums of six bits each, in the 12 bytes from byte 4 on."""
    low, middle, high = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=1)
    least = np.concatenate([middle & 63, (high >> 4) | ((middle >> 2) & 48)], axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), _half(blocks, 2) * least.astype(np.float32)


def _q4_k(blocks: Bytes) -> Parts:
    n, (scale, least) = len(blocks), _six(blocks)
    levels = _bits(blocks[:, 16:144].reshape(n, 4, 32), 4, (0, 4)).reshape(n, 8, 32)
    return scale, levels.astype(np.float32), -least


def _q5_k(blocks: Bytes) -> Parts:
    n, (scale, least) = len(blocks), _six(blocks)
    levels = _bits(blocks[:, 48:176].reshape(n, 4, 32), 4, (0, 4)).reshape(n, 8, 32)
    levels = levels | (_bits(blocks[:, 16:48], 1, range(8)) << 4)
    return scale, levels.astype(np.float32), -least


def _q6_k(blocks: Bytes) -> Parts:
    n = len(blocks)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = _bits(blocks[:, :128].reshape(n, 2, 64), 4, (0, 4)).reshape(n, 8, 32)
    high = _bits(blocks[:, 128:192].reshape(n, 2, 32), 2, (0, 2, 4, 6)).reshape(n, 8, 32)
    levels = ((low | (high << 4)).astype(np.int8) - np.int8(32)).reshape(n, 16, 16)
    return scale, levels.astype(np.float32), None


def _tq1_0(blocks: Bytes) -> Parts:
    n = len(blocks)
    parts = []
    for begin, end, powers in ((0, 32, (1, 3, 9, 27, 81)), (32, 48, (1, 3, 9, 27, 81)), (48, 52, (1, 3, 9, 27))):
        # Digits to the base of 3: multiplying moves the one wanted to the top of the byte, and what overflows is dropped.
        moved = blocks[:, None, begin:end] * np.array(powers, np.uint8).reshape(1, -1, 1)
        parts.append(moved.reshape(n, -1))
    digits = (np.concatenate(parts, axis=1).astype(np.uint16) * 3) >> 8
    return _plain(_half(blocks, 52), digits.astype(np.int8) - np.int8(1))


def _tq2_0(blocks: Bytes) -> Parts:
    n = len(blocks)
    levels = _bits(blocks[:, :64].reshape(n, 2, 32), 2, (0, 2, 4, 6)).reshape(n, 256)
    return _plain(_half(blocks, 64), levels.astype(np.int8) - np.int8(1))


def _mxfp4(blocks: Bytes) -> Parts:
    # E8M0 halved, because the levels are doubled; its two smallest exponents are subnormal in float32.
    exponent = blocks[:, :1].astype(np.uint32)
    shifted = np.where(exponent < 2, np.uint32(0x200000) << np.minimum(exponent, 1), (np.maximum(exponent, 1) - 1) << np.uint32(23))
    scale = shifted.astype(np.uint32).view(np.float32)
    return _plain(scale, _E2M1[_low_high(blocks, 1, 16)])


def _nvfp4(blocks: Bytes) -> Parts:
    n, code = len(blocks), blocks[:, :4]
    exponent, mantissa = (code >> 3) & 15, (code & 7).astype(np.float32)
    scale = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent.astype(np.float32) - 7))
    scale = np.where((code == 0) | (code == 0x7F), 0.0, scale * 0.5).astype(np.float32)
    levels = _E2M1[_bits(blocks[:, 4:36].reshape(n, 4, 8), 4, (0, 4)).reshape(n, 4, 16)]
    return scale, levels, None


def _iq4_nl(blocks: Bytes) -> Parts:
    return _plain(_half(blocks, 0), _NL[_low_high(blocks, 2, 16)])


def _iq4_xs(blocks: Bytes) -> Parts:
    n = len(blocks)
    high = _bits(np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16), 2, range(0, 16, 2)).reshape(n, 8).astype(np.uint8)
    low = (blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)).reshape(n, 8) & 15
    scale = _half(blocks, 0) * ((low | (high << 4)).astype(np.int8) - np.int8(32)).astype(np.float32)
    levels = _NL[_bits(blocks[:, 8:136].reshape(n, 8, 16), 4, (0, 4)).reshape(n, 8, 32)]
    return scale, levels, None


def _signs(codes: npt.NDArray[Any]) -> F32:
    """-1 where a bit of a byte is set, else 1; lowest bit first, in a new last axis."""
    return np.where((codes.astype(np.uint8)[..., None] >> np.arange(8, dtype=np.uint8)) & 1, np.float32(-1), np.float32(1))


def _nibble_scales(packed: Bytes) -> npt.NDArray[np.float32]:
    return ((packed[..., None] >> np.array([0, 4], np.uint8)) & 15).reshape(len(packed), -1).astype(np.float32)


def _grid(scale: F32, points: F32, signs: F32 | np.float32) -> Parts:
    """``scale`` (n, groups) and points of a grid (n, groups, points, entries)."""
    return scale, (points * signs).reshape(*scale.shape, -1), None


def _iq2_xxs(blocks: Bytes) -> Parts:
    words = np.ascontiguousarray(blocks[:, 2:66]).view(np.uint32).reshape(len(blocks), 8, 2)
    scale = _half(blocks, 0) * (np.float32(0.5) + (words[..., 1] >> 28).astype(np.float32)) * np.float32(0.25)
    points = GRIDS["IQ2_XXS"][np.ascontiguousarray(words[..., 0]).view(np.uint8).reshape(len(blocks), 8, 4)]
    return _grid(scale, points, _signs(SIGNS[(words[..., 1, None] >> np.array([0, 7, 14, 21], np.uint32)) & 127]))


def _iq2_xs(blocks: Bytes) -> Parts:
    codes = np.ascontiguousarray(blocks[:, 2:66]).view(np.uint16).reshape(len(blocks), 16, 2)
    scale = _half(blocks, 0) * (np.float32(0.5) + _nibble_scales(blocks[:, 66:74])) * np.float32(0.25)
    return _grid(scale, GRIDS["IQ2_XS"][codes & 511], _signs(SIGNS[codes >> 9]))


def _iq2_s(blocks: Bytes) -> Parts:
    n = len(blocks)
    high = ((blocks[:, 66:74, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3).reshape(n, 32).astype(np.uint16)
    points = GRIDS["IQ2_S"][blocks[:, 2:34] | (high << 8)].reshape(n, 16, 2, 8)
    scale = _half(blocks, 0) * (np.float32(0.5) + _nibble_scales(blocks[:, 74:82])) * np.float32(0.25)
    return _grid(scale, points, _signs(blocks[:, 34:66]).reshape(n, 16, 2, 8))


def _iq3_xxs(blocks: Bytes) -> Parts:
    n, words = len(blocks), np.ascontiguousarray(blocks[:, 66:98]).view(np.uint32)
    scale = _half(blocks, 0) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5)
    signs = _signs(SIGNS[(words[..., None] >> np.array([0, 7, 14, 21], np.uint32)) & 127])
    return _grid(scale, GRIDS["IQ3_XXS"][blocks[:, 2:66]].reshape(n, 8, 4, 8), signs)


def _iq3_s(blocks: Bytes) -> Parts:
    n = len(blocks)
    high = ((blocks[:, 66:74, None] >> np.arange(8, dtype=np.uint8)) & 1).reshape(n, 64).astype(np.uint16)
    points = GRIDS["IQ3_S"][blocks[:, 2:66] | (high << 8)].reshape(n, 8, 4, 8)
    scale = _half(blocks, 0) * (1 + 2 * _nibble_scales(blocks[:, 106:110]))
    return _grid(scale, points, _signs(blocks[:, 74:106]).reshape(n, 8, 4, 8))


def _iq1_s(blocks: Bytes) -> Parts:
    n, high = len(blocks), np.ascontiguousarray(blocks[:, 34:50]).view(np.uint16)
    scale = _half(blocks, 0) * (2 * ((high >> 12) & 7) + 1).astype(np.float32)
    shift = np.where(high & 0x8000, np.float32(-0.125), np.float32(0.125))[..., None, None]
    top = ((high[..., None] >> np.array([0, 3, 6, 9], np.uint16)) & 7).reshape(n, 32)
    points = GRIDS["IQ1_S"][blocks[:, 2:34] | (top << 8)].reshape(n, 8, 4, 8)
    return _grid(scale, points + shift, np.float32(1))


def _iq1_m(blocks: Bytes) -> Parts:
    n, packed = len(blocks), np.ascontiguousarray(blocks[:, 48:56]).view(np.uint16)
    # The scale's four nibbles are the highest ones of the four words.
    word = np.bitwise_or.reduce((packed & 0xF000) >> np.array([12, 8, 4, 0], np.uint16), axis=1)
    fine = ((packed[..., None] >> np.array([0, 3, 6, 9], np.uint16)) & 7).reshape(n, 16)
    scale = word.view(np.float16).astype(np.float32)[:, None] * (2 * fine + 1).astype(np.float32)
    high = (blocks[:, 32:48, None] >> np.array([0, 4], np.uint8)) & 15
    shift = np.where(high & 8, np.float32(-0.125), np.float32(0.125)).reshape(n, 16, 2, 1)
    points = GRIDS["IQ1_S"][blocks[:, :32] | ((high & 7).reshape(n, 32).astype(np.uint16) << 8)].reshape(n, 16, 2, 8)
    return _grid(scale, points + shift, np.float32(1))


_SEARCHED, _TOGETHER = 2.0, float("inf")
"""How far entries may be from what they stand for, in gaps, where not each is rounded to the level nearest to it: with an importance
matrix llama.cpp fits the scales of the oldest types once their levels are chosen; a point of a grid is chosen for several entries."""

TYPES = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2, "F16"),
    2: Kind("Q4_0", 32, 18, "F32", _q4_0, 4, (-8, 7), reach=_SEARCHED),
    3: Kind("Q4_1", 32, 20, "F32", _q4_1, 4, (0, 15), reach=_SEARCHED),
    6: Kind("Q5_0", 32, 22, "F32", _q5_0, 5, (-16, 15), reach=_SEARCHED),
    7: Kind("Q5_1", 32, 24, "F32", _q5_1, 5, (0, 31), reach=_SEARCHED),
    8: Kind("Q8_0", 32, 34, "F32", _q8_0, 8, (-128, 127)),
    10: Kind("Q2_K", 256, 84, "F32", _q2_k, 2, (0, 3)),
    11: Kind("Q3_K", 256, 110, "F32", _q3_k, 3, (-4, 3)),
    12: Kind("Q4_K", 256, 144, "F32", _q4_k, 4, (0, 15)),
    13: Kind("Q5_K", 256, 176, "F32", _q5_k, 5, (0, 31)),
    14: Kind("Q6_K", 256, 210, "F32", _q6_k, 6, (-32, 31)),
    15: Kind("Q8_K", 256, 292, "F32", _q8_k, 8, (-128, 127)),
    16: Kind("IQ2_XXS", 256, 66, "F32", _iq2_xxs, 2, (-43, 43), 18, reach=_TOGETHER),
    17: Kind("IQ2_XS", 256, 74, "F32", _iq2_xs, 2, (-43, 43), 18, reach=_TOGETHER),
    18: Kind("IQ3_XXS", 256, 98, "F32", _iq3_xxs, 3, (-62, 62), 10, reach=_TOGETHER),
    19: Kind("IQ1_S", 256, 50, "F32", _iq1_s, 1, (-1.125, 1.125), reach=_TOGETHER),
    20: Kind("IQ4_NL", 32, 18, "F32", _iq4_nl, 4, (-127, 113), 24),
    21: Kind("IQ3_S", 256, 110, "F32", _iq3_s, 3, (-15, 15), 2, reach=_TOGETHER),
    22: Kind("IQ2_S", 256, 82, "F32", _iq2_s, 2, (-43, 43), 18, reach=_TOGETHER),
    23: Kind("IQ4_XS", 256, 136, "F32", _iq4_xs, 4, (-127, 113), 24),
    24: Kind("I8", 1, 1, "I8"),
    25: Kind("I16", 1, 2, "I16"),
    26: Kind("I32", 1, 4, "I32"),
    27: Kind("I64", 1, 8, "I64"),
    28: Kind("F64", 1, 8, "F64"),
    29: Kind("IQ1_M", 256, 56, "F32", _iq1_m, 1, (-1.125, 1.125), reach=_TOGETHER),
    30: Kind("BF16", 1, 2, "BF16"),
    34: Kind("TQ1_0", 256, 54, "F32", _tq1_0, 2, (-1, 1)),
    35: Kind("TQ2_0", 256, 66, "F32", _tq2_0, 2, (-1, 2)),
    39: Kind("MXFP4", 32, 17, "F32", _mxfp4, 4, (-12, 12), 4),
    40: Kind("NVFP4", 64, 36, "F32", _nvfp4, 4, (-12, 12), 4),
    41: Kind("Q1_0", 128, 18, "F32", _q1_0, 1, (-1, 1), 2),
}
"""Every type that files hold, by its number (``enum ggml_type``). Q8_1 (9) is one that only computations use, and is of two sizes."""
REMOVED = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
"""Numbers of types that were taken out: Q4_2, Q4_3, and blocks repacked for one processor."""
