"""The best small window for every (source, target) pair: does it turn the source into the target, and what does it do to the other classes?

A free mask, as for single targets, gathers the few pixels two classes are really told apart by; held to one small window, the pairs of a
clean model turn far more seldom. What tells a source-specific trigger from a window that does turn a pair is what it does to images of
all other classes: nothing. The attacker trains for that with cover samples, stamped images of other classes under their own labels
(Tang et al., "Demon in the Variant", USENIX Security 2021, section 3.1), whereas a stroke that makes a 5 of a 9 disturbs other digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.ascent import Climbed, Questions, Round, climb, passes
from modelguard_triggers.case import Case, margins, quantised
from modelguard_triggers.evidence import Evidence
from modelguard_triggers.outliers import Floats
from modelguard_triggers.plan import Stage
from modelguard_triggers.windows import Windows, places, search_windows, side_of
from torch import Tensor

from modelguard import DeadlineExceeded

SMALLEST = 2
"""Smallest side in pixels. On images of 8 x 8 a window of 3 already turns many pairs of clean models."""
ROUNDS = (Round(4, 4, 0.5, keep=6, starts=3), Round(8, 4, 0.5, keep=4), Round(16, 8, 0.25, keep=1))
SHORTER = (Round(3, 3, 0.5, keep=4, starts=2), Round(8, 4, 0.5, keep=3), Round(16, 8, 0.25, keep=1))
"""Where the budget does not allow :data:`ROUNDS` for all pairs. It misses a trigger's place more often."""
SCREEN = (Round(8, 4, 0.5, keep=2), Round(12, 8, 0.25, keep=1))
PROMISING, PATTERNS, SHOWN = 6, 4, 2
"""A screen begins each pair at so many places, found by random windows, so many at each place, on so many images of each class. 384
passes a pair."""
REFINE = (Round(8, 8, 0.25, keep=3), Round(24, 16, 0.1, keep=1))
ASIDE = 2
"""Pixels that the window of a suspect is moved by: on images of 32 x 32 places were three apart."""
BUDGET = 240_000
"""Images that go forward and backward through the model at most: by :data:`SHORTER` 138 pairs on images of 32 x 32, 222 on 8 x 8."""
ODDS = 0.05
"""Added to both sides of the odds of a share, one image of the twenty or so there are of a class: all of them is not infinitely many."""


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


def affordable(height: int, width: int, rounds: Sequence[Round] = SHORTER) -> int:
    """Pairs that :data:`BUDGET` allows on images of this size."""
    return BUDGET // passes(rounds, len(places(height, width, side_of(height, width, SMALLEST))))


def schedule(evidence: Evidence, pairs: Tensor) -> tuple[str, tuple[Round, ...]]:
    """The rounds that are made for ``pairs`` (P, 2), and their name."""
    return ("full", ROUNDS) if len(pairs) <= affordable(*evidence.shape[1:], ROUNDS) else ("short", SHORTER)


def search_pairs(case: Case, pairs: Tensor, stage: Stage) -> PairWindows:
    """The best window for each of ``pairs`` (P, 2), searched on images of its source and tried on the check images.

    Raises :class:`~modelguard.DeadlineExceeded` where there is no time for all of them: what is judged is the matrix.
    """
    rounds = SCREEN if stage is Stage.SCREEN else schedule(case.evidence, pairs)[1]
    side = side_of(*case.evidence.shape[1:], SMALLEST)
    arms = PROMISING if stage is Stage.SCREEN else len(places(*case.evidence.shape[1:], side))
    if (count := len(case.affordable(lambda n: n * passes(rounds, arms), len(pairs), "pairs"))) < len(pairs):
        raise DeadlineExceeded(f"there is time for {count} of {len(pairs)} pairs, and all are needed to compare")
    generator = case.generator(f"windows/{len(pairs)}")
    if stage is Stage.SCREEN:
        begun = promising(case, pairs, side, generator)
        return _tried(case, pairs, climb(case, _questions(case, pairs), begun, rounds, generator, "windows"))
    found = search_windows(case, _questions(case, pairs), side, rounds, generator)
    return _tried(case, pairs, found)


def promising(case: Case, pairs: Tensor, side: int, generator: torch.Generator) -> Climbed[Windows]:
    """Windows to begin from: of random ones at every place, tried on a few images of every class, those that raise a pair's margin most.

    One forward pass says what a window does to all targets at once, so that no pair has to try every place by itself.
    """
    evidence = case.evidence
    labels, device = evidence.search_labels, evidence.search.device
    corners = places(*evidence.shape[1:], side)
    random = Windows(case.model.input, evidence.shape, side, corners.repeat_interleave(PATTERNS, 0), generator, device)
    random.parameters[0].round_()  # as far apart as pixels can be
    chosen = torch.zeros(len(pairs), PROMISING, dtype=torch.long)
    for source in torch.unique(pairs[:, 0]).tolist():
        shown = evidence.search[(labels == source).nonzero().flatten()[:SHOWN].to(device)]  # (B, C, H, W)

        def raised(part: Tensor, shown: Tensor = shown) -> Tensor:  # (b, K)
            with torch.inference_mode():
                x = random.stamp(part // len(shown), shown[part % len(shown)])
                logits = case.model(x.contiguous(memory_format=torch.channels_last)).cpu()
                top = logits.topk(2, 1).values
                return logits - torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])

        index = torch.arange(len(random.corners) * len(shown), device=device)
        parts = torch.split(index, case.batch)
        found = case.side_by_side(raised, parts, partial(_random_tick, case, source))
        margin = torch.cat(found).view(len(corners), PATTERNS, len(shown), -1).mean(2)  # (places, patterns, K)
        best, pattern = margin.max(1)  # (places, K)
        for row in (pairs[:, 0] == source).nonzero().flatten().tolist():
            wanted = int(pairs[row, 1])
            at = best[:, wanted].topk(min(PROMISING, len(best))).indices
            chosen[row] = (at * PATTERNS + pattern[at, wanted]).repeat(-(-PROMISING // len(at)))[:PROMISING]
    question = torch.arange(len(pairs)).repeat_interleave(PROMISING)
    return Climbed(random.only(chosen.flatten().to(device)), question)


def _random_tick(case: Case, source: int, done: int) -> None:
    case.tick(source, case.evidence.classes, "windows at random")


def refine_pairs(case: Case, pairs: Tensor, windows: Windows) -> PairWindows:
    """Go on from the ``windows`` of some ``pairs``, there and at all places around, with more images, so that a trigger is seen whole."""
    begun = windows.shifted(ASIDE)
    question = torch.arange(len(pairs)).repeat_interleave(len(begun.corners) // len(pairs))
    generator = case.generator(f"windows/{len(pairs)}")
    found = climb(case, _questions(case, pairs), Climbed(begun, question), REFINE, generator, "windows, refined")
    return _tried(case, pairs, found)


def _questions(case: Case, pairs: Tensor) -> Questions:
    return Questions(pairs[:, 1], (case.evidence.search_labels[None] == pairs[:, :1]).float())


def _tried(case: Case, pairs: Tensor, found: Climbed[Windows]) -> PairWindows:
    """What the windows ``found`` for ``pairs`` do to the check images."""
    becomes, margin = _outcomes(case, found.arms, pairs[:, 1])  # (P, M) each
    labels = case.evidence.check_labels
    own = labels[None] == pairs[:, :1]
    third = ~own & (labels[None] != pairs[:, 1:])
    turned, kept = _mean(becomes == pairs[:, 1:], own), _mean(becomes == labels[None], third)
    return PairWindows(found.arms, turned, _mean(margin / case.usual_margin, own), kept, found.guided.numpy())


def stamped(case: Case, windows: Windows, arms: Tensor, images: Tensor) -> Tensor:
    """``images`` (N, C, H, W), each with the window of its arm (N,), rounded as a stored image is."""
    return quantised(windows.stamp(arms, images), case.model.input)


def _outcomes(case: Case, windows: Windows, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For every check image under every window: its class, and the margin of the class ``wanted`` (P,); both (P, M)."""
    images, count = case.evidence.check, len(case.evidence.check)

    def outcome(part: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            x = stamped(case, windows, part // count, images[part % count])
            logits = case.model(x.contiguous(memory_format=torch.channels_last)).cpu()
            return logits.argmax(1), margins(logits, wanted[part.cpu() // count])

    parts = torch.split(torch.arange(len(wanted) * count, device=images.device), case.batch)
    becomes, margin = zip(*case.side_by_side(outcome, parts, lambda done: case.tick(done, len(parts), "windows, checked")), strict=True)
    return torch.cat(becomes).view(-1, count), torch.cat(margin).view(-1, count)


def _mean(values: Tensor, asked: Tensor) -> Floats:
    """(P,) mean of ``values`` (P, M) where ``asked`` (P, M) bool; 0 where none was."""
    mean: Floats = (torch.where(asked, values.double(), 0.0).sum(1) / asked.sum(1).clamp(min=1)).numpy()
    return mean
