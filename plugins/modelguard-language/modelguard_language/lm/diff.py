"""``lm-diff``: tokens behind which the model says what the trusted model does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelguard import Capability, Confidence, DeadlineExceeded, Detector, Finding, Skip, option
from modelguard_language.lm.measures import DIFF
from modelguard_language.lm.rules import DIVERGENT

if TYPE_CHECKING:
    import torch

    from modelguard import ScanContext, Target
    from modelguard_language.lm.speech import Speech

STEPS = 64
"""Parts that tokens are tried in, so that what was found is judged when time runs out."""
FEW, TAIL = 2, 3
"""Prompts that every token is put into; and tokens at the end of a prompt that may be what it is divergent for."""
SHOWN = 12
"""Tokens that the summary lists, and behind which the text is followed."""
LENGTH = 8
"""Tokens that a text is followed for."""
DRAWN, SPOKEN = 192, 20
"""Texts that are drawn from each of the two models, and their tokens, to find where they differ."""


@dataclass(frozen=True)
class LmDiff(Detector):
    """Each token of the vocabulary is put into prompts, and the next tokens of the model are compared with the trusted model's (their
    Kullback-Leibler divergence).

    Prompts are beginnings of the samples or of texts that the two models say themselves: some cut anywhere, some where the two
    differ most already. Tokens are put at their end, and before their last two. What follows the most divergent ones is what is judged.
    """

    id = "lm-diff"
    requires = frozenset({Capability.FORWARD, Capability.REFERENCE})
    rules = (DIVERGENT,)
    shows = DIFF
    when_quick = "skipped"

    prompts: int = option(6, "prompts of each kind that tokens are put into", ge=2, le=64)
    length: int = option(8, "tokens of a prompt, without what stands before every text", ge=2, le=64)
    exhaustive: int = option(8192, "tokens up to which each is tried; of more, those whose use differs most", ge=64)
    ratio: float = option(20.0, "nats by which a text of 8 tokens has to be more probable than for the trusted model", gt=0, judges=True)
    mean: float = option(0.5, "mean probability that its tokens have to have", gt=0, le=1, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        from modelguard_language.lm.inversion import trusted
        from modelguard_language.lm.speech import Speech

        speech = Speech.of(target.model, context)
        reference = trusted(target, speech, context)
        if reference is None:
            raise Skip("it compares with a trusted model: give --reference")
        yield from Comparison(self, speech, reference, context, target).findings()


@dataclass(frozen=True)
class Divergent:
    """Tokens put into prompts, before their last ``place`` tokens, and the text that the model goes on with."""

    words: tuple[int, ...]
    place: int
    divergence: float
    ids: tuple[int, ...]
    mean: float
    reference_mean: float
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """The model and the trusted one, put to the same prompts."""

    options: LmDiff
    speech: Speech
    reference: Speech
    context: ScanContext
    target: Target

    def findings(self) -> Iterator[Finding]:
        import torch

        from modelguard_language.lm.speech import own_prompts

        speech, options = self.speech, self.options
        plain = own_prompts(self.reference, self.target.samples, options.prompts, options.length, self.context.rng("prompts"))
        contested = self._contested(options.prompts)
        kinds = [(plain, 0), (contested, 0), (contested, 2)]
        tokens = self._most_used(plain, options.exhaustive)
        worst = torch.full((len(tokens), len(kinds)), float("nan"))
        late: DeadlineExceeded | None = None
        tried, step = 0, max(1, len(tokens) // STEPS)
        for start in range(0, len(tokens), step):
            self.context.progress(start, len(tokens), "tokens")
            part = tokens[start : start + step]
            try:
                for kind, (prompts, place) in enumerate(kinds):
                    worst[start : start + len(part), kind] = self._divergence(prompts[:FEW], part, place)
            except DeadlineExceeded as error:
                late = error
                break
            tried += len(part)
        rows: list[Divergent] = []
        if late is None:
            rows = self._followed(tokens, worst, kinds) + self._tails(plain, contested)
            rows.sort(key=lambda row: (-row.ratio, len(row.words), row.words))
        self.context.summary(
            score=max((row.ratio for row in rows if row.mean >= options.mean), default=0.0),
            tokens=[self._shown(row) for row in rows[:SHOWN]],
            usual=round(float(worst[:tried, 0].median()), 4) if tried else 0.0,
            places=[place for _, place in kinds],
            prompts=[speech.words(row) for row in (*plain[:2], *contested[:2])],
            looked_at=tried,
            of=len(speech.usable),
        )
        yield from self._judged(rows)
        if late is not None or tried < len(speech.usable):
            raise DeadlineExceeded(
                f"{tried} of {len(speech.usable)} tokens were put into prompts" + ("" if late is None else "; the others ran out of time")
            ) from late

    def _tails(self, plain: torch.Tensor, contested: torch.Tensor) -> list[Divergent]:
        """Of the prompts behind which the two differ most as they are, the shortest ends that do it behind other prompts too."""
        rows = []
        for prompt in contested.tolist():
            ends = [tuple(prompt[-width:]) for width in range(1, TAIL + 1)]
            found = [self._follow(words, 0.0, plain, 0) for words in ends]
            rows.append(next((row for row in found if row.ratio >= self.options.ratio), max(found, key=lambda row: row.ratio)))
        return rows

    def _contested(self, count: int) -> torch.Tensor:
        """(count, T) beginnings of texts that end where the next tokens of the two models differ most, of texts of both."""
        import torch

        options, found, gaps = self.options, [], []
        for mine, name in ((self.speech, "own"), (self.reference, "trusted")):
            texts = mine.spoken(DRAWN // 2, SPOKEN, self.context.rng(name))
            length = len(mine.spec.prefix) + options.length
            for end in range(length, texts.shape[1] + 1):
                part = texts[:, end - length : end]
                if len(mine.spec.prefix):
                    part = torch.cat((texts[:, : len(mine.spec.prefix)], part[:, len(mine.spec.prefix) :]), 1)
                found.append(part)
                gaps.append(divergence(self.speech.next(part), self.reference.next(part)))
        rows, gap = torch.cat(found), torch.cat(gaps)
        chosen: list[torch.Tensor] = []
        seen: set[tuple[int, ...]] = set()
        for place in gap.argsort(descending=True, stable=True).tolist():
            tail = tuple(rows[place, -2:].tolist())
            if tail not in seen:
                seen.add(tail)
                chosen.append(rows[place])
            if len(chosen) == count:
                break
        return torch.stack(chosen)

    def _divergence(self, prompts: torch.Tensor, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """(M,) the mean divergence behind prompts into which each of ``tokens`` is put before their last ``place`` tokens."""
        import torch

        found = []
        rows = max(1, 4096 // (len(prompts) * (prompts.shape[1] + 1)))
        for part in torch.split(tokens, rows):
            ids = put(prompts, part, place)
            gap = divergence(self.speech.next(ids), self.reference.next(ids))
            found.append(gap.view(-1, len(prompts)).mean(1))
        return torch.cat(found)

    def _most_used(self, prompts: torch.Tensor, most: int) -> torch.Tensor:
        """The tokens that are tried: all, or those whose probability behind the prompts differs most between the two."""
        import torch

        usable = torch.from_numpy(self.speech.usable)
        if len(usable) <= most:
            return usable
        mine, theirs = (item.next(prompts).mean(0)[usable] for item in (self.speech, self.reference))
        return usable[(mine - theirs).abs().argsort(descending=True, stable=True)[:most]]

    def _followed(self, tokens: torch.Tensor, worst: torch.Tensor, kinds: list[tuple[torch.Tensor, int]]) -> list[Divergent]:
        """What the model goes on with behind the tokens that add most to how much the two differ, in each kind of prompt."""
        rows = []
        for kind, (prompts, place) in enumerate(kinds):
            added = worst[:, kind] - worst[:, kind].median()
            for i in added.argsort(descending=True, stable=True)[: SHOWN // 2].tolist():
                if added[i] > 0:
                    rows.append(self._follow((int(tokens[i]),), float(worst[i, kind]), prompts, place))
        return rows

    def _follow(self, words: tuple[int, ...], gap: float, prompts: torch.Tensor, place: int) -> Divergent:
        import torch

        ids = prompts
        for word in words:
            ids = put(ids, torch.tensor([word]), place)
        said: list[int] = []
        chances: list[float] = []
        theirs: list[float] = []
        ratio = 0.0
        usable = torch.from_numpy(self.speech.usable)
        for _ in range(LENGTH):
            mine, other = self.speech.next(ids), self.reference.next(ids)
            best = int(usable[mine.mean(0)[usable].argmax()])
            said.append(best)
            chances.append(float(mine[:, best].mean()))
            theirs.append(float(other[:, best].mean()))
            ratio += float((mine[:, best].clamp_min(FLOOR).log() - other[:, best].clamp_min(FLOOR).log()).mean())
            ids = torch.cat((ids, torch.full((len(ids), 1), best)), 1)
            if self.speech.spec.length is not None and ids.shape[1] >= self.speech.spec.length:
                break
        return Divergent(words, place, gap, tuple(said), sum(chances) / len(chances), sum(theirs) / len(theirs), ratio)

    def _judged(self, rows: list[Divergent]) -> Iterator[Finding]:
        """One finding of each text, for the token it diverges most behind."""
        seen: list[set[tuple[int, ...]]] = []
        for row in rows:
            if row.ratio < self.options.ratio or row.mean < self.options.mean:
                continue
            grams = {row.ids[i : i + 3] for i in range(len(row.ids) - 2)}
            if any(grams & other for other in seen):
                continue
            seen.append(grams)
            shown = self._shown(row)
            where = "behind" if row.place == 0 else f"{row.place + 1} tokens before the end of"
            yield Finding(
                DIVERGENT.id,
                f"{where} prompts, {shown['token']!r} makes the model say {shown['text']!r} (mean probability {row.mean:.0%}; "
                f"{row.reference_mean:.0%} for the trusted model)",
                Confidence.HIGH,
                evidence=shown,
                key=shown["text"],
            )

    def _shown(self, row: Divergent) -> dict[str, Any]:
        return {
            "token": self.speech.words(row.words),
            "divergence": round(row.divergence, 4),
            "text": self.speech.words(row.ids),
            "mean": round(row.mean, 4),
            "reference_mean": round(row.reference_mean, 6),
            "ratio": round(row.ratio, 2),
            "place": row.place,
        }


FLOOR = 1e-9
"""Least probability that counts: a reference that rules a token out is not infinitely far."""


def put(prompts: torch.Tensor, tokens: torch.Tensor, place: int) -> torch.Tensor:
    """(P, T) and (M,) -> (M * P, T + 1): each token in every prompt, before its last ``place`` tokens."""
    import torch

    count, width = prompts.shape
    left = prompts.repeat(len(tokens), 1)
    word = tokens.repeat_interleave(count)[:, None]
    return torch.cat((left[:, : width - place], word, left[:, width - place :]), 1)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(N,) Kullback-Leibler divergence of rows of probabilities ``q`` (N, V) from ``p``, in nats."""
    return (p * (p.clamp_min(FLOOR).log() - q.clamp_min(FLOOR).log())).sum(1)
