"""What is measured of every trigger that a search recovered, beside its attack success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modelguard_triggers.facts import rounded
from modelguard_triggers.patches import patch_processing, patch_size
from modelguard_triggers.strip import IMAGES, OVERLAYS, strip

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelguard_triggers.case import Case

FEWEST = 10
"""Images to lay over others, and images to judge, at the least: of fewer the spread of the entropies says nothing."""


def recovered(case: Case, klass: int | None, asked: Tensor, stamp: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """``base_rate`` of class ``klass`` (of none where a trigger has many), ``strip_flagged`` (:mod:`modelguard_triggers.strip`), and of a
    vision transformer what :func:`~modelguard_triggers.patches.patch_processing` says.

    ``asked`` (M,) bool are the check images the trigger is for, and ``stamp`` puts it on images (N, C, H, W).
    """
    evidence, facts = case.evidence, dict[str, Any]()
    if klass is not None and klass in evidence.base_rates:
        facts["base_rate"] = rounded(evidence.base_rates[klass])
    places = asked.nonzero().flatten()
    images = evidence.check[_spread(places, IMAGES).to(evidence.check.device)]
    overlays = evidence.search[_spread(torch.arange(len(evidence.search)), OVERLAYS).to(evidence.search.device)]
    if min(len(images), len(overlays)) < FEWEST:
        return facts
    with torch.inference_mode():
        stamped = stamp(images)
    flagged = strip(case.model, *(x.cpu().numpy().astype(np.float32) for x in (images, stamped, overlays)))
    facts["strip_flagged"] = rounded(flagged.mean())
    if side := patch_size(case.model):
        facts |= patch_processing(case.model, images, stamped, side, case.generator("patches"))
    return facts


def _spread(places: Tensor, count: int) -> Tensor:
    """Up to ``count`` of ``places`` (M,), evenly drawn."""
    chosen = torch.linspace(0, max(0, len(places) - 1), min(count, len(places))).round().long()
    return places[chosen]
