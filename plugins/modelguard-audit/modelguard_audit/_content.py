"""What samples of a class show, judged by the other classes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_audit._dataset import Floats, Integers, Mask

RIDGE = 0.01
DIMENSIONS = 64


@dataclass(frozen=True)
class Content:
    """How much one part of a class looks like samples of other classes, next to the rest of it.

    ``foreign`` is the probability that a sample of the part looks more like one than a sample of the rest does (.5 where both do alike, the
    area under the ROC curve). ``kinds`` is how many classes the part looks like, and ``kinds_rest`` the rest: the exponential of the
    entropy of the shares, from 1 to ``others``, the number of other classes.
    """

    foreign: float
    kinds: float
    kinds_rest: float
    others: int

    @property
    def swapped(self) -> Content:
        """The same of the rest."""
        return Content(1 - self.foreign, self.kinds_rest, self.kinds, self.others)


def content(values: Floats, labels: Integers, label: int, member: Mask) -> Content:
    """What the part ``member`` (n,) of the samples under ``label`` shows, by their inputs ``values`` (N, D).

    Exclusionary reclassification (Chen et al. 2018, section 4.3) without the class itself: a linear classifier is trained on the other
    classes, so that neither the poison nor natural kinds of the class teach it anything. Each part is centred before it is asked: what
    all its samples share, a trigger or a way of writing, is no content. Poison of many classes still shows them, one by one; a natural
    kind has little left to show.
    """
    others = labels != label
    x = values - values[others].mean(0)
    x /= max(float(x[others].std()), 1e-12)
    known = np.eye(int(labels.max()) + 1)[labels[others]]  # (M, K)
    inputs = _with_one(x[others])
    weights = np.linalg.solve(inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1]), inputs.T @ known)  # (D + 1, K)
    of_class = x[~others]
    part, rest = (_with_one(chosen - chosen.mean(0)) @ weights for chosen in (of_class[member], of_class[~member]))  # (m, K), (n - m, K)
    return Content(_above(part.max(1), rest.max(1)), _kinds(part), _kinds(rest), len(np.unique(labels[others])))


def _with_one(x: Floats) -> Floats:
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def _above(part: Floats, rest: Floats) -> float:
    """The probability that one of ``part`` is larger than one of ``rest``, a half where both are equal."""
    ordered = np.sort(rest)
    wins = (np.searchsorted(ordered, part, "left") + np.searchsorted(ordered, part, "right")) / 2
    return float(wins.mean() / len(rest))


def _kinds(scores: Floats) -> float:
    shares = np.bincount(scores.argmax(1)) / len(scores)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
