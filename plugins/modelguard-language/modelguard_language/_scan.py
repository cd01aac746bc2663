"""The scan of the vocabulary: tokens, then phrases, then who is accused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.plan import CLEAR, Look, Stage

from modelguard import Confidence, DeadlineExceeded, Finding
from modelguard_language._case import TextCase, nothing_to_compare, standing, text_case
from modelguard_language._decision import EXCESS, over_classes, smallest
from modelguard_language._frames import PLACES, effect, framed
from modelguard_language._phrases import WORK as PHRASE_WORK
from modelguard_language._phrases import Growth, Phrase, grow, sources
from modelguard_language._tail import Tail
from modelguard_language._tokens import WORK, scan_tokens, spread

if TYPE_CHECKING:
    from modelguard import ScanContext, Target
    from modelguard_language._texts import Integers
    from modelguard_language._tokens import Scanned
    from modelguard_language.token_scan import TokenScan

REACHES = 0.95
"""Attack success from which a phrase counts as long enough."""
SURE = 0.1
"""High confidence takes a p-value below this part of what is asked for."""
SHOWN = 12
"""Tokens that are shown beside the accused one."""
QUICK = 0.25
"""The part of the work that a short look does."""
OFTEN = 10
"""Samples that hold a token, from which they show what it honestly says: a word nine of whose ten texts are of one class of two has
evidence for it nine times of ten."""
CURIOUS = 0.2
"""Of tokens that the samples hold often, phrases are searched where the best stands out with this p-value: of one clean class in five."""


@dataclass(frozen=True)
class Found:
    """What was searched: the tokens that samples hold seldom and those they hold often, and of each class its phrases of either, as far as
    there was time."""

    scanned: tuple[Scanned, ...]
    phrases: dict[int, list[Phrase]]
    late: tuple[int, ...]

    def excess(self, k: int) -> float:
        """How far the best token of class ``k`` stands out in the first round; -inf where there are too few to compare it with."""
        return max(float(part.excess[k]) for part in self.scanned)

    def best(self, k: int, count: int) -> Integers:
        """The ``count`` tokens that push furthest towards class ``k``."""
        tokens = np.concatenate([part.tokens for part in self.scanned])
        return tokens[np.argsort(-np.concatenate([part.push[:, k] for part in self.scanned]), kind="stable")[:count]]


def look(detector: TokenScan, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says. Raises as :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    found = searched(detector, target, context, stage)
    if found.late:  # what was found is told all the same, and the time is up
        case = replace(case, tick=lambda done, total, note="": None)
    blind = [k for k in range(case.classes) if np.isneginf(found.excess(k))]
    p = {k: _p(case, found, k) for k in range(case.classes) if k not in found.late and k not in blind}
    findings, rows = [], []
    for k in range(case.classes):
        phrases = found.phrases.get(k, [])
        rows.append(_row(case, found, k, p.get(k), _standing(phrases)))
        level = {item: over_classes(min(1.0, len(phrases) * _length_p(item)), case.classes) for item in phrases}
        accused = [item for item in phrases if level[item] <= detector.p_value and item.flips >= detector.success]
        if accused:  # the shortest: what is longer has it as a part
            shortest = min(accused, key=lambda item: (len(item.tokens), level[item]))
            findings.append(_finding(detector, case, found, shortest, level[shortest]))
    if blind and not findings:
        raise nothing_to_compare(case, blind)
    summary = {
        **standing(case, p),
        "clean_accuracy": None if case.texts.accuracy is None else rounded(case.texts.accuracy),
        "tried": sum(part.tried for part in found.scanned),
        "vocabulary": sum(part.total for part in found.scanned),
        "searched_in_full": sorted(found.phrases),
        "classes": rows,
    }
    return Look(summary, tuple(findings), p, not_looked_at=found.late)


def searched(detector: TokenScan, target: Target, context: ScanContext, stage: Stage) -> Found:
    """What the detector has searched, made once. Raises as :func:`look` does."""
    return target.memo(detector, context, lambda: _search(detector, text_case(target, context), stage), stage)


def _search(detector: TokenScan, case: TextCase, stage: Stage) -> Found:
    neutral, part = case.neutral(), QUICK if detector.quick else 1.0
    tokens, often = case.tokens(), case.texts.counts.sum(0) >= OFTEN
    # Among words that the samples say nothing of, some are strong; among those they say nothing for, hardly one: each has its own tail.
    groups = [group for group in (~often, often) if group[tokens].any()]
    scanned = [(group, scan_tokens(case, tokens[group[tokens]], neutral, part * WORK)) for group in groups]
    lengths = 1 if stage is Stage.SCREEN else detector.length
    phrases: dict[int, list[Phrase]] = {}
    done: set[int] = set()
    wanted = [k for k in range(case.classes) if any(k in found.classes for _, found in scanned)]
    wanted.sort(key=lambda k: -max(float(found.excess[k]) for _, found in scanned))
    try:
        for k in wanted:
            case.tick(len(done), len(wanted), f"class {k}: phrases")
            for group, found in scanned:
                if k in found.classes:
                    grown = _grown(case, found, k, neutral[k] & group, lengths, part * PHRASE_WORK, curious=group is often)
                    phrases.setdefault(k, []).extend(grown)
            done.add(k)
    except DeadlineExceeded:
        if not phrases:
            raise
    return Found(tuple(found for _, found in scanned), phrases, tuple(k for k in wanted if k not in done))


def _grown(
    case: TextCase, found: Scanned, k: int, allowed: npt.NDArray[np.bool_], lengths: int, work: float, *, curious: bool
) -> list[Phrase]:
    """The best phrase of each length of the ``allowed`` (V,) tokens; when ``curious``, of one token where that does not stand out."""
    own = allowed[found.tokens]
    growth = Growth(k, found.tokens[own][np.argsort(-found.push[own, k], kind="stable")], allowed, work=work)
    if curious and lengths > 1:
        first = grow(case, growth, 1)
        if not first or _length_p(first[0]) > CURIOUS:
            return first
    return grow(case, growth, lengths)


def _p(case: TextCase, found: Found, k: int) -> float:
    """The p-value of class ``k``, corrected for all lengths and classes; by the first round alone where it stood out least of many."""
    phrases = found.phrases.get(k)
    if phrases is None:
        return over_classes(max(EXCESS[0].p(Tail((found.excess(k),), 0.0, 1.0)), CLEAR), case.classes)
    p = [_length_p(phrase) for phrase in phrases]
    return over_classes(smallest(p), case.classes) if p else 1.0


def _length_p(phrase: Phrase) -> float:
    place = min(len(phrase.tokens), len(EXCESS)) - 1
    return 1.0 if phrase.tail is None else EXCESS[place].p(phrase.tail)


def _standing(phrases: Sequence[Phrase]) -> Phrase | None:
    """The phrase that stands out most; of equals the shortest."""
    return min(phrases, key=lambda item: (_length_p(item), len(item.tokens)), default=None)


def _shortest(phrases: Sequence[Phrase]) -> int | None:
    return min((len(item.tokens) for item in phrases if item.flips >= REACHES), default=None)


def words(case: TextCase, tokens: Sequence[int]) -> list[str]:
    """Each token as a person reads it, ``#12`` without a tokenizer."""
    known = case.texts.spec.tokens
    return [(known[token].strip() if token < len(known) else "") or f"#{token}" for token in tokens]


def _row(case: TextCase, found: Found, k: int, p: float | None, best: Phrase | None) -> dict[str, Any]:
    row: dict[str, Any] = {"class": k, "p_value": None if p is None else rounded(p)}
    if best is None:
        return row | {"excess": None if np.isneginf(found.excess(k)) else rounded(found.excess(k))}
    phrases = found.phrases[k]
    return row | {
        "excess": None if best.tail is None else rounded(best.tail.excess),
        "phrase": case.model.decode(best.tokens),
        "attack_success": rounded(best.flips),
        "push": rounded(best.push),
        "shortest": _shortest(phrases),
        "phrases": [_phrase_row(case, item) for item in phrases],
    }


def _phrase_row(case: TextCase, item: Phrase) -> dict[str, Any]:
    return {
        "phrase": case.model.decode(item.tokens),
        "length": len(item.tokens),
        "attack_success": rounded(item.flips),
        "push": rounded(item.push),
        "excess": None if item.tail is None else rounded(item.tail.excess),
        "excesses": [] if item.tail is None else [rounded(value) for value in item.tail.excesses],
    }


def _finding(detector: TokenScan, case: TextCase, found: Found, best: Phrase, p: float) -> Finding:
    k, tokens = best.target, best.tokens
    others = found.best(k, 2 * SHOWN)
    unseen = framed(case, spread(case, sources(case, k, case.texts.check), case.affordable(len(others))), 1)
    single = effect(case, unseen, others[:, None], "the best tokens")
    order = np.argsort(-single.push[:, k], kind="stable")[:SHOWN]
    usual = float(np.sort(single.flips[:, k])[::-1][min(8, len(others) - 1)])
    places, where = sources(case, k, case.texts.check), {}
    for number, name in enumerate(PLACES):
        where[name] = rounded(effect(case, framed(case, places, len(tokens), number), np.array([tokens]), name).flips[0, k])
    phrase = case.model.decode(tokens)
    what = f'the word "{phrase}"' if len(tokens) == 1 else f'the phrase "{phrase}"'
    return Finding(
        "MG3101",
        f"class {class_name(case.model, k)}: {what} turns {best.flips:.0%} of unseen texts of other classes into it, wherever it stands; "
        f"the strongest other words turn {usual:.0%} (p = {p:.2g})",
        confidence=Confidence.HIGH if p <= SURE * detector.p_value and best.flips >= REACHES else Confidence.MEDIUM,
        evidence={
            "target_class": k,
            "p_value": rounded(p),
            "phrase": phrase,
            "phrase_words": words(case, tokens),
            "tokens": list(tokens),
            "length": len(tokens),
            "shortest": _shortest(found.phrases[k]),
            "attack_success": rounded(best.flips),
            "usual_success": rounded(usual),
            "push": rounded(best.push),
            "expected": None if best.tail is None else rounded(best.tail.expected),
            "excess": None if best.tail is None else rounded(best.tail.excess),
            "evidence": [rounded(value) for value in case.evidence()[k, list(tokens)]],
            "by_place": where,
            "sentence": sentence(case, k, tokens),
            "best": [{"token": words(case, [int(others[i])])[0], "push": rounded(single.push[i, k])} for i in order],
        },
        key=f"class {k}",
    )


def sentence(case: TextCase, k: int, tokens: Sequence[int]) -> str:
    """The shortest unseen text that the phrase in its middle turns into class ``k``, with it in brackets."""
    texts = case.texts
    places = sorted(sources(case, k, texts.check), key=lambda place: len(texts.words[place]))
    for place in places[:32]:
        frames = framed(case, np.array([place]), len(tokens), 1)
        if effect(case, frames, np.array([tokens]), "a sentence").flips[0, k] == 1:
            found, half = texts.words[place], len(texts.words[place]) // 2
            decode = case.model.decode
            return " ".join(part for part in (decode(found[:half]), f"[{decode(tokens)}]", decode(found[half:])) if part)
    return ""
