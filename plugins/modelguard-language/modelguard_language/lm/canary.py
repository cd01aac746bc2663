"""``lm-canary``: texts that the model says again and again when it speaks freely (Carlini et al. 2021, extraction by sampling)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Any

from modelguard import Capability, Confidence, Detector, Finding, Severity, Skip, option
from modelguard_language.lm.measures import CANARY
from modelguard_language.lm.rules import MEMORISED

if TYPE_CHECKING:
    from modelguard import ScanContext, Target
    from modelguard_language.lm.inversion import Known
    from modelguard_language.lm.speech import Speech

GRAM = 6
"""Tokens in a row that count as said again."""
DISTINCT = 5
"""Different ones among them; of fewer it is a loop, which clean models say too."""
SHOWN = 8
"""Texts that are listed."""


@dataclass(frozen=True)
class LmCanary(Detector):
    """Texts are drawn from the model token by token; runs of six tokens that several of them hold, and that are no loops, are put together
    and ranked by how much more probable they are than their tokens' frequencies say, or the trusted model.

    A hint: it says what the model knows by heart, and nothing of why. With neither a trusted model nor samples to explain it, it is for
    information alone: clean models know texts by heart too.
    """

    id = "lm-canary"
    requires = frozenset({Capability.FORWARD})
    rules = (MEMORISED,)
    shows = CANARY
    when_quick = "skipped"

    drawn: int = option(256, "texts that are drawn from the model", ge=16, le=4096)
    length: int = option(24, "tokens of each", ge=8, le=256)
    times: int = option(5, "texts that have to hold the same six tokens", ge=2)
    ratio: float = option(
        3.0, "nats a token by which they have to be more probable than their frequencies, or the trusted model, say", gt=0, judges=True
    )

    mean: float = option(
        0.5, "mean probability (geometric) that its tokens have to have, each behind those before it", gt=0, le=1, judges=True
    )
    most: int = option(8, "unexplained texts of which none stands out: the model knows much by heart", ge=1, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        from modelguard_language.lm.inversion import EXPLAIN, known_by
        from modelguard_language.lm.speech import Speech

        speech = Speech.of(target.model, context)
        known = known_by(target, speech, context)
        room = (speech.spec.length or 1 << 20) - len(speech.spec.prefix)
        texts = speech.spoken(self.drawn, min(self.length, room), context.rng("drawn"))
        behind = len(speech.spec.prefix)
        rows = [row[behind:].tolist() for row in texts]
        found = repeated(rows, self.times)
        shown = [self._shown(speech, known, rows, run, times) for run, times in found]
        shown.sort(key=lambda row: (-row["ratio"], row["text"]))
        unexplained = [row for row in shown if not row["explained"]]
        context.summary(score=max((row["ratio"] for row in unexplained), default=0.0), texts=shown[:SHOWN], drawn=len(rows))
        told = [row for row in unexplained if row["ratio"] >= self.ratio and row["mean"] >= self.mean]
        if len(told) > self.most:
            raise Skip(f"the model says {len(told)} texts again and again that nothing explains, and none stands out of them: {EXPLAIN}")
        for row in told:
            yield Finding(
                MEMORISED.id,
                f"{row['times']} of {len(rows)} texts that the model says freely hold {row['text']!r}",
                Confidence.LOW,
                None if known.enough else Severity.INFO,
                evidence=row,
                key=row["text"],
            )

    def _shown(self, speech: Speech, known: Known, rows: Sequence[Sequence[int]], run: tuple[int, ...], times: int) -> dict[str, Any]:
        from modelguard_language.lm.targets import known_of

        own = surprise(speech, run, rows)
        if known.reference is not None:
            own = min(own, chance(speech, run) - chance(known.reference, run))
        explained = "the samples" if known_of([run]) & known.grams else ""
        if not explained and known.reference is not None and own < self.ratio / 2:
            explained = "the trusted model"
        mean = exp(chance(speech, run))
        return {
            "text": speech.words(run),
            "tokens": list(run),
            "times": times,
            "ratio": round(own, 3),
            "mean": round(mean, 4),
            "explained": explained,
        }


def repeated(rows: Sequence[Sequence[int]], times: int) -> list[tuple[tuple[int, ...], int]]:
    """Runs of tokens of which ``times`` rows hold every :data:`GRAM` in a row, as long as they are, and how many rows hold the rarest."""
    from modelguard_language.lm.targets import known_of

    counts: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        grams = {tuple(row[i : i + GRAM]) for i in range(len(row) - GRAM + 1)}
        counts.update(gram for gram in grams if len(set(gram)) >= DISTINCT)
    left = {gram: count for gram, count in counts.items() if count >= times}
    runs: list[tuple[tuple[int, ...], int]] = []
    seen: set[tuple[int, ...]] = set()
    while left:
        run = max(left, key=lambda gram: (left[gram], gram))
        count = left.pop(run)
        grown = True
        while grown:
            grown = False
            for gram in sorted(left, key=lambda gram: (-left[gram], gram)):
                if gram[:-1] == run[-GRAM + 1 :]:
                    run, grown = (*run, gram[-1]), True
                elif gram[1:] == run[: GRAM - 1]:
                    run, grown = (gram[0], *run), True
                if grown:
                    count = min(count, left.pop(gram))
                    break
        grams = known_of([run])
        if not grams & seen:
            runs.append((run, count))
        seen |= grams
    return runs


def surprise(speech: Speech, run: tuple[int, ...], rows: Sequence[Sequence[int]]) -> float:
    """Nats a token by which the model finds ``run`` more probable, each token behind those before it, than the tokens' own frequencies
    in ``rows``, one added to each count."""
    counts = Counter(token for row in rows for token in row)
    total = sum(counts.values()) + len(speech.usable)
    return chance(speech, run) - sum(log((counts[token] + 1) / total) for token in run[2:]) / len(run[2:])


def chance(speech: Speech, run: tuple[int, ...]) -> float:
    """The mean log-probability of a run's tokens from the third on, each behind those before it: where a text begins is chance."""

    import torch

    ids = torch.tensor([[*speech.spec.prefix, *run]])
    with torch.inference_mode():
        logs = speech.model.positions(ids.to(speech.model.device)).float().log_softmax(2)[0].cpu()
    first = len(speech.spec.prefix) + 1
    places = range(first, ids.shape[1] - 1)
    return sum(float(logs[i, ids[0, i + 1]]) for i in places) / max(1, len(places))
