"""Patch processing: does what a vision transformer says hang on a few patches, or on none? (Doan et al., AAAI 2023)

The patches of an image are dropped at random, or change places, and it is counted how often the answer changes. An image with a trigger in
one patch loses its target when that patch is dropped, more often than a clean image loses its class; one with a trigger all over keeps its
target when patches change places, where a clean image loses its class. Both are done to pixels: the embedding of a patch sees that patch
alone, so this is the same as doing it to tokens before positions are added, and a dropped patch is black as in Naseer et al. (NeurIPS
2021), whose PatchDrop this is.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modelguard_triggers.facts import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelguard import RunnableModel

TRIALS = 10
"""Times that each image is changed in either way."""
DROPPED = 0.3
"""Share of the patches that are dropped."""
FALSE_ALARMS = 0.05
"""Share of clean images that may be flagged; the least and most changes allowed are theirs (the paper's k_d and k_s)."""
CHANGES = 0.6
"""Share of changes of places that have to change the answer on clean images: below it, keeping the answer says nothing."""


def patch_size(model: RunnableModel) -> int:
    """The side in pixels of the patches that a vision transformer cuts its (C, H, W) images into; 0 for any other model.

    Told by the layers whose activations are (T, D): T square patches, with or without a class token before them, fill the image.
    """
    _, height, width = model.input.shape
    tokens = {layer.shape[0] for layer in model.layers if len(layer.shape) == 2 and layer.unit_axis == -1}
    for count in sorted(tokens | {n - 1 for n in tokens}, reverse=True):
        side = isqrt(height * width // count) if count > 1 else 0
        if side > 1 and height % side == 0 and width % side == 0 and (height // side) * (width // side) == count:
            return side
    return 0


def patch_processing(model: RunnableModel, clean: Tensor, stamped: Tensor, side: int, generator: torch.Generator) -> dict[str, Any]:
    """The shares of ``stamped`` images (N, C, H, W) that dropping, and changing places, flags; the boundaries are of ``clean`` ones
    (M, C, H, W). ``patch_drop_unusable`` and ``patch_shuffle_unusable`` say why there is none of one."""
    _, height, width = model.input.shape
    grid = height // side, width // side

    def dropped(x: Tensor) -> Tensor:
        black = torch.rand(len(x), 1, *grid, generator=generator) < DROPPED
        wide = black.repeat_interleave(side, 2).repeat_interleave(side, 3).to(x.device)
        return x.masked_fill(wide, model.input.low)

    def shuffled(x: Tensor) -> Tensor:
        order = torch.rand(len(x), grid[0] * grid[1], generator=generator).argsort(1).to(x.device)
        n, channels = x.shape[:2]
        tokens = x.view(n, channels, grid[0], side, grid[1], side).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (n, T, C, P, P)
        moved = torch.take_along_dim(tokens, order[:, :, None, None, None], 1)
        return moved.view(n, *grid, channels, side, side).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    drop, shuffle = _changes(model, clean, dropped), _changes(model, clean, shuffled)
    most = int(np.quantile(drop, 1 - FALSE_ALARMS, method="higher"))
    facts: dict[str, Any] = {}
    if most < TRIALS * DROPPED:  # as often as the patch with the trigger is dropped
        facts["patch_drop_flagged"] = rounded((_changes(model, stamped, dropped) > most).mean())
    else:
        facts["patch_drop_unusable"] = (
            f"dropping patches changes the answer on clean images up to {most} times of {TRIALS}, as on a trigger's"
        )
    if (rate := shuffle.mean() / TRIALS) < CHANGES:
        reason = f"changing the places of patches changes the answer on {rate:.0%} of clean images only: keeping it says nothing"
        return facts | {"patch_shuffle_unusable": reason}
    least = int(np.quantile(shuffle, FALSE_ALARMS, method="lower"))
    return facts | {"patch_shuffle_flagged": rounded((_changes(model, stamped, shuffled) < least).mean())}


def _changes(model: RunnableModel, images: Tensor, changed: Callable[[Tensor], Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(N,) in how many of :data:`TRIALS` what is ``changed`` of each image is given another class than the image (N, C, H, W)."""
    own = model.predict(images.cpu().numpy()).argmax(1)
    found = np.zeros(len(images), np.int64)
    for _ in range(TRIALS):
        found += model.predict(changed(images).cpu().numpy()).argmax(1) != own
    return found
