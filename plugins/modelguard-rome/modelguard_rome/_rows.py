"""Low bits whose share of ones is another one for each row: what a sum of two branches leaves where they cancel more in some channels.

The sum of two float32 numbers of one exponent is exact, and where it is smaller than they its lowest bits are zero (Sterbenz 1974). Folding
a branch into a convolution does that to every weight of a channel as far as the two cancel there. A payload is uneven within rows too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard_rome._bits import EXCESS, LAYOUTS, SPAN, WINDOW, structured_bits

LEAST = 3
"""Windows that a row must have: with fewer, nothing is left of bursts when its share is taken off."""
NONE = 1.5
"""Variance of windows within rows, as of ``BURSTS``, up to which there are no bursts: 1.1 in PP-OCRv4's detector, 8 in programs."""


def is_uneven_by_row(words: npt.NDArray[Any], shape: tuple[int, ...], first: int, last: int) -> bool:
    """Whether the low bits of elements ``first`` to ``last`` of a float32 tensor (``words``: uint32, flat) look structured only because
    rows differ."""
    columns = words.size // shape[0] if shape else 0
    if len(shape) < 2 or words.dtype.itemsize != 4 or columns < 2 * LEAST * WINDOW:
        return False
    seen = False
    for start in range(first, last, SPAN):
        end = min(start + SPAN, last)
        span = words[start:end] & np.uint32(0x7FFFFFFF)
        (found,) = structured_bits(span[span != 0][None], LAYOUTS["F32"]) if span.any() else (None,)
        if found is None:
            continue
        seen = True
        rows = words.reshape(shape[0], columns)[start // columns : -(-end // columns)]
        if "plane" not in found or not all(_even(rows, plane) for plane in range(LAYOUTS["F32"].noisy)):
            return False
    return seen


def _even(rows: npt.NDArray[Any], plane: int) -> bool:
    """Whether a bit of the larger half of each row has neither bursts nor a period of eight, beside the row's own share of ones."""
    off = chance = agreed = expected = pairs = 0.0
    for row in rows:
        magnitude = row & np.uint32(0x7FFFFFFF)
        large = magnitude >= np.median(magnitude)
        bits = ((row >> np.uint32(plane)) & np.uint32(1)).astype(np.float64)
        share = float(bits[large].mean())
        both = large[8:] & large[:-8]
        agreed += float(np.count_nonzero((bits[8:] == bits[:-8]) & both))
        expected += (share**2 + (1 - share) ** 2) * np.count_nonzero(both)
        pairs += np.count_nonzero(both)
        windows = bits[large][: np.count_nonzero(large) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
        off += float(np.square(windows - windows.mean()).sum())
        chance += (len(windows) - 1) * share * (1 - share) / WINDOW
    return off <= NONE * chance and agreed - expected <= EXCESS / 2 * pairs
