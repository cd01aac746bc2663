"""Float32 weights that are float16 numbers times one factor for each channel: what folding a BatchNorm into a convolution leaves.

The product of an 11-bit and a 24-bit mantissa is rounded, so its low bits are neither zero nor noise: they follow from the 11 bits. A
payload in them does not survive the division by the factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GRID = 1 << 10
"""Mantissas that a float16 has in each power of two (11 bits, the first of them set). bfloat16's are among them."""
NEAR = 2.0**-22
"""Relative distance from a float16 up to which rounding twice explains it. One number in 2^10 is as near by chance."""
SAMPLE = 12
"""Entries of a row that a factor is looked for with; by chance one factor of 1024 fits them with probability 2^-110."""
MOST = 4096
"""Rows that are checked; past them nothing is said."""
_CANDIDATES: Floats = 1 + np.arange(GRID) / GRID


def are_products(words: npt.NDArray[Any], shape: tuple[int, ...], first: int, last: int) -> bool:
    """Whether elements ``first`` to ``last`` of a float32 tensor (``words``: uint32, flat) lie in rows, or in columns of a matrix, that
    are float16 numbers times a factor of their own."""
    if len(shape) < 2 or words.dtype.itemsize != 4 or not len(words):
        return False
    values = words.view(np.float32).reshape(shape[0], -1)
    rows = values[first // values.shape[1] : -(-last // values.shape[1])]
    if all(_is_product(row) for row in rows) if len(rows) <= MOST else False:
        return True
    return len(shape) == 2 and shape[1] <= MOST and all(_is_product(column) for column in rows.T)


def _is_product(row: npt.NDArray[np.float32]) -> bool:
    alive = row[row != 0].astype(np.float64)
    if not np.isfinite(alive).all():
        return False
    if len(alive) < SAMPLE:  # too few to tell, and too few to hide anything in
        return len(alive) <= 2
    pivot = alive[0]
    mantissas, _ = np.frexp(alive[:SAMPLE, None] * (_CANDIDATES / pivot))
    fitting = np.flatnonzero((_off_grid(mantissas) <= NEAR).all(axis=0))
    # The one factor that fits the sample has to fit the row; a pivot near the edge of the grid may leave two.
    return any(bool(np.all(_off_grid(np.frexp(alive * (_CANDIDATES[at] / pivot))[0]) <= NEAR)) for at in fitting[:4])


def _off_grid(mantissas: Floats) -> Floats:
    """Relative distance of mantissas in [0.5, 1) from the nearest of 11 bits."""
    scaled = np.abs(mantissas) * (2 * GRID)
    off: Floats = np.abs(scaled - np.rint(scaled)) / scaled
    return off
