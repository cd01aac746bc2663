"""The best small window for every (source, target) pair: does it turn the source into the target, and what does it do to the other classes?

A free mask, as for single targets, gathers the few pixels two classes are really told apart by; held to one small window, the pairs of a
clean model turn far more seldom. What tells a source-specific trigger from a window that does turn a pair is what it does to pictures of
all other classes: nothing. The attacker trains for that with cover samples, stamped pictures of other classes under their own labels
(Tang et al., "Demon in the Variant", USENIX Security 2021, section 3.1), whereas a stroke that makes a 5 of a 9 disturbs other digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_companions.triggers import Windows
from modelguard_companions.windows import Finalists, Round, improve_windows, margins, places, search_windows, usual_margin
from torch import Tensor

from modelguard import ScanContext, Target
from modelguard_neural_cleanse.prepare import Evidence, generator, images_at_once

SIDE = 1 / 8
"""Side of the window as a part of the picture's: 4 of 28 and of 32 pixels."""
SMALLEST = 2
"""Smallest side in pixels. On pictures of 8 x 8 a window of 3 already turns many pairs of clean models."""
ROUNDS = (Round(4, 4, 0.5, keep=6, starts=3), Round(8, 4, 0.5, keep=4), Round(16, 8, 0.25, keep=1))
SHORTER = (Round(3, 3, 0.5, keep=4, starts=2), Round(8, 4, 0.5, keep=3), Round(16, 8, 0.25, keep=1))
"""Where the budget does not allow :data:`ROUNDS` for all pairs. It misses a trigger's place more often."""
REFINE = (Round(8, 8, 0.25, keep=3), Round(24, 16, 0.1, keep=1))
ASIDE = 2
"""Pixels that the window of a suspect is moved by: on pictures of 32 x 32 places were three apart."""
BUDGET = 240_000
"""Pictures that go forward and backward through the model at most: by :data:`SHORTER` 138 pairs on pictures of 32 x 32, 222 on 8 x 8."""
ODDS = 0.05
"""Added to both sides of the odds of a share, one picture of the twenty or so there are of a class: all of them is not infinitely many."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairWindows:
    """The best window of each of P pairs, in ``windows``, and what it does to the check images.

    ``turned`` (P,) is the share of the source's that it turns into the target, ``margin`` (P,) by how much on average, in units of the
    margin of clean images; ``kept`` (P,) is the share of the images of third classes whose class stays what it is.
    """

    windows: Windows
    turned: Floats
    margin: Floats
    kept: Floats
    guided: npt.NDArray[np.bool_]

    @property
    def statistic(self) -> Floats:
        """(P,) the log odds of turning the source and of keeping the others, added: large for a trigger that knows its source."""
        return _log_odds(self.turned) + _log_odds(self.kept)


def _log_odds(share: Floats) -> Floats:
    odds: Floats = np.log((share + ODDS) / (1 - share + ODDS))
    return odds


def side_of(height: int, width: int) -> int:
    """Side of the window for pictures of this size, in pixels."""
    return max(SMALLEST, round(SIDE * min(height, width)))


def affordable(height: int, width: int, rounds: Sequence[Round] = SHORTER) -> int:
    """Pairs that :data:`BUDGET` allows on pictures of this size."""
    arms, passes = len(places(height, width, side_of(height, width))), 0
    for item in rounds:
        passes += arms * item.steps * item.pictures
        arms = min(item.keep, arms) * item.starts
    return BUDGET // passes


def schedule(evidence: Evidence, pairs: Tensor) -> tuple[str, tuple[Round, ...]]:
    """The rounds that are made for ``pairs`` (P, 2), and their name."""
    return ("full", ROUNDS) if len(pairs) <= affordable(*evidence.shape[1:], ROUNDS) else ("short", SHORTER)


def search_pairs(target: Target, context: ScanContext, evidence: Evidence, pairs: Tensor) -> PairWindows:
    """The best window for each of ``pairs`` (P, 2), searched on images of its source and tried on the check images."""

    size = evidence.shape[1:]
    rounds = schedule(evidence, pairs)[1]

    def search(**how: Any) -> Finalists:
        return search_windows(target.model, side=side_of(*size), rounds=rounds, **how)

    return _tried(target, context, evidence, pairs, search)


def refine_pairs(target: Target, context: ScanContext, evidence: Evidence, pairs: Tensor, windows: Windows) -> PairWindows:
    """Go on from the ``windows`` of some ``pairs``, there and at all places around, with more images, so that a trigger is seen whole."""

    def search(**how: Any) -> Finalists:
        begun = windows.shifted(ASIDE)
        return improve_windows(
            target.model,
            Finalists(begun, torch.arange(len(pairs)).repeat_interleave(len(begun.corners) // len(pairs))),
            rounds=REFINE,
            **how,
        )

    return _tried(target, context, evidence, pairs, search)


def _tried(target: Target, context: ScanContext, evidence: Evidence, pairs: Tensor, search: Callable[..., Finalists]) -> PairWindows:
    """What ``search`` finds for ``pairs``, tried on the check images."""
    model, batch = target.model, images_at_once(target, context)

    def tick(done: int, total: int) -> None:
        context.check_deadline()
        context.progress(done, total, "windows")

    usual = usual_margin(model, evidence.search, evidence.search_labels.to(evidence.search.device), batch)
    found = search(
        wanted=pairs[:, 1],
        allowed=(evidence.search_labels[None] == pairs[:, :1]).float(),
        pictures=evidence.search,
        usual=usual,
        batch=batch,
        generator=generator(context, f"windows/{len(pairs)}"),
        tick=tick,
    )
    becomes, margin = _outcomes(target, context, evidence, found.windows, pairs[:, 1], batch)  # (P, M) each
    labels = evidence.check_labels
    own = labels[None] == pairs[:, :1]
    third = ~own & (labels[None] != pairs[:, 1:])
    turned, kept = _mean(becomes == pairs[:, 1:], own), _mean(becomes == labels[None], third)
    return PairWindows(found.windows, turned, _mean(margin / usual, own), kept, found.guided.numpy())


def stamped(target: Target, windows: Windows, arms: Tensor, images: Tensor) -> Tensor:
    """``images`` (N, C, H, W), each with the window of its arm (N,), rounded to 256 levels as a stored picture is."""
    low, high = target.model.input.low, target.model.input.high
    grey = (high - low) / 255
    rounded: Tensor = low + ((windows.stamp(arms, images) - low) / grey).round() * grey
    return rounded


def _outcomes(
    target: Target, context: ScanContext, evidence: Evidence, windows: Windows, wanted: Tensor, batch: int
) -> tuple[Tensor, Tensor]:
    """For every check image under every window: its class, and the margin of the class ``wanted`` (P,); both (P, M)."""
    images, count = evidence.check, len(evidence.check)
    index = torch.arange(len(wanted) * count, device=images.device)
    becomes, margin = [], []
    with torch.inference_mode():
        for part in torch.split(index, batch):
            context.check_deadline()
            x = stamped(target, windows, part // count, images[part % count])
            logits = target.model(x.contiguous(memory_format=torch.channels_last)).cpu()
            becomes.append(logits.argmax(1))
            margin.append(margins(logits, wanted[part.cpu() // count]))
    return torch.cat(becomes).view(-1, count), torch.cat(margin).view(-1, count)


def _mean(values: Tensor, asked: Tensor) -> Floats:
    """(P,) mean of ``values`` (P, M) where ``asked`` (P, M) bool; 0 where none was."""
    mean: Floats = (torch.where(asked, values.double(), 0.0).sum(1) / asked.sum(1).clamp(min=1)).numpy()
    return mean
