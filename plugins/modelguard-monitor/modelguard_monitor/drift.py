"""Say when a stream of predictions is no longer like clean ones. ``modelguard monitor make`` writes this file too; it needs numpy alone.

    watch = Watch(guard.facts, guard.arrays)
    for verdict in verdicts:
        drifted = watch.take(verdict["label"], verdict["scores"]) >= LEVEL

Every prediction becomes p-values among all before it, clean samples first: as long as nothing has changed they are independent and
uniform, whatever the scores are distributed like (Vovk, Gammerman and Shafer 2005, theorem 8.2; ties broken at random). Bettors bet that
p-values are small, and the evidence is their capital, each added to by 1 at every prediction, as Shiryaev and Roberts do (an e-detector,
Shin, Ramdas and Rinaldo 2024, definition 2.2). Evidence less the number of predictions is a martingale while nothing has changed, so by
Doob's inequality one detector passes a level within n predictions with a probability of at most n / level; of R, one R * level.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LEVEL = 100_000
"""Evidence that makes an alarm: of n predictions a false alarm has a chance of at most n / this, 1 % in a thousand."""
TAILS = (0.003, 0.01, 0.03, 0.1)
"""How small the p-values are that bettors bet on."""
PARTS = (0.01, 0.03, 0.1, 0.3, 0.9)
"""The parts of all predictions that bettors take to have changed."""

ENDS = {"confidence": ("less sure", "surer")}
"""Streams of which both ends are watched."""


class Bets:
    """One e-detector for each row of ``tails`` (S, T): an equal mixture of bettors, for each tail t and part r one that holds p <= t for as
    probable as t + r (1 - t). Its bet is the likelihood ratio of that and t, so it is fair while p is uniform."""

    def __init__(self, tails: Floats) -> None:
        self.tails = tails[:, :, None]  # (S, T, 1)
        share = self.tails + np.array(PARTS) * (1 - self.tails)  # (S, T, R)
        self.win, self.lose = share / self.tails, (1 - share) / (1 - self.tails)
        self.evidence = np.zeros_like(share)

    def take(self, p: Floats) -> Floats:
        """(S,) the evidence after p-values (S,)."""
        bet = np.where(p[:, None, None] <= self.tails, self.win, self.lose)
        self.evidence = np.minimum((self.evidence + 1) * bet, 1e300)
        return np.asarray(self.evidence.mean((1, 2)))


class Watch:
    """Watches scores (their upper end; of confidence, both ends) and how often each class is predicted: each a detector of its own.

    ``evidence`` has the largest of each stream, divided by the number of streams and of detectors in it: each has its part of an alarm.
    """

    def __init__(self, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], streams: Collection[str] = ()) -> None:
        """``streams`` are of ``class`` and the guard's statistics; all of them by default."""
        self.streams = tuple(streams) or ("class", *facts["thresholds"])
        self.evidence = dict.fromkeys(self.streams, 0.0)
        self.rng = np.random.default_rng(0)
        self.clean = {name: sorted(arrays[f"clean.{name}"].tolist()) for name in self.streams if name != "class"}
        self.counts = arrays["clean.class"].copy()  # (K,) how often each class was predicted
        shares = (self.counts + 1) / (self.counts.sum() + len(self.counts))
        tails = np.array(TAILS)[None]
        self.bets = {name: Bets(shares[:, None] if name == "class" else tails.repeat(len(ENDS.get(name, ".")), 0)) for name in self.streams}

    def take(self, label: int, scores: Mapping[str, float]) -> float:
        """The largest evidence after one more prediction, with the scores of its streams; from :data:`LEVEL` on it is an alarm."""
        for name, bets in self.bets.items():
            p = self._classes(label) if name == "class" else self._score(name, scores[name])
            self.evidence[name] = float(bets.take(p).max()) / len(p) / len(self.bets)
        return max(self.evidence.values())

    def end(self, stream: str) -> int:
        """Which detector of a stream has most evidence: the class that is predicted more often, or the place in :data:`ENDS`."""
        return int(self.bets[stream].evidence.mean((1, 2)).argmax())

    def _score(self, name: str, score: float) -> Floats:
        clean = self.clean[name]
        above, ties = len(clean) - bisect_right(clean, score), bisect_right(clean, score) - bisect_left(clean, score)
        insort(clean, score)
        p = (above + self.rng.random() * (ties + 1)) / len(clean)
        return np.array([p, 1 - p][: len(self.bets[name].tails)])

    def _classes(self, label: int) -> Floats:
        """(K,) p-values of "it is this class": those it was before come first."""
        self.counts[label] += 1
        total, mine = self.counts.sum(), np.arange(len(self.counts)) == label
        u = self.rng.random()
        return np.asarray(np.where(mine, u * self.counts, self.counts + u * (total - self.counts)) / total)
