"""The best square window for every class: where in the picture, and with what in it, does it turn most pictures into the class?

A patch of free shape gathers the few pixels a class is really told by from all over the picture, and on small pictures does so with as
few as a true trigger has. A trigger that somebody stamps is compact. Held to one window, the classes of a clean model are reached far
more seldom, and a trigger's is still always reached (docs/detection-matrix.md). The search is ``modelguard_companions.windows``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from modelguard_companions.windows import Round, Tick, search_windows, usual_margin
from torch import Tensor

if TYPE_CHECKING:
    from modelguard_companions.triggers import Windows

    from modelguard import RunnableModel

SIDE = 1 / 8
"""Side of the window as a part of the picture's: 4 of 28 and of 32 pixels."""
SMALLEST = 3
"""Smallest side in pixels. On pictures of 8 x 8 it is 14 % of them, and the classes of clean models are reached more easily."""
ROUNDS = (Round(4, 4, 0.5, keep=8, starts=3), Round(8, 4, 0.5, keep=6), Round(16, 8, 0.25, keep=3), Round(24, 8, 0.1, keep=3))
QUICK = (Round(2, 4, 0.5, keep=3, starts=2), Round(8, 4, 0.3, keep=2), Round(12, 8, 0.15, keep=2))
"""Half of the random patterns end in a local optimum, a checkerboard's for example: two more starts find the way out."""


def side_of(height: int, width: int) -> int:
    """Side of the window for pictures of this size, in pixels."""
    return max(SMALLEST, round(SIDE * min(height, width)))


def best_windows(
    model: RunnableModel,
    classes: Sequence[int],
    pictures: Tensor,
    labels: Tensor,
    *,
    rounds: Sequence[Round] = ROUNDS,
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> tuple[Windows, list[int]]:
    """The finalists among the windows of every class of ``classes``, and the class of each.

    ``pictures`` (S, C, H, W) raw with ``labels`` (S,); ``batch`` of them go through the model at a time.
    """
    height, width = pictures.shape[2:]
    wanted = torch.tensor(classes)
    found = search_windows(
        model,
        wanted,
        (labels.cpu()[None] != wanted[:, None]).float(),
        pictures,
        usual_margin(model, pictures, labels, batch),
        side=side_of(height, width),
        rounds=rounds,
        batch=batch,
        generator=generator,
        tick=tick,
    )
    return found.windows, wanted[found.question].tolist()
