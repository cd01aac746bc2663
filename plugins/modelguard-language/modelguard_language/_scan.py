"""The scan of the vocabulary: tokens, then phrases, then who is accused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_triggers.facts import class_name, rounded, score
from modelguard_triggers.plan import CLEAR, Look, Stage

from modelguard import Confidence, DeadlineExceeded, Finding
from modelguard_language._case import TextCase, text_case
from modelguard_language._decision import EXCESS, over_classes, smallest
from modelguard_language._frames import PLACES, effect, framed
from modelguard_language._phrases import WORK as PHRASE_WORK
from modelguard_language._phrases import Growth, Phrase, grow, sources
from modelguard_language._tail import Tail
from modelguard_language._tokens import WORK, scan_tokens, spread

if TYPE_CHECKING:
    from modelguard import ScanContext, Target
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


@dataclass(frozen=True)
class Found:
    """What was searched: the tokens, and of each class its phrases, as far as there was time."""

    scanned: Scanned
    phrases: dict[int, list[Phrase]]
    late: tuple[int, ...]


def look(detector: TokenScan, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says. Raises as :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    found = searched(detector, target, context, stage)
    if found.late:  # what was found is told all the same, and the time is up
        case = replace(case, tick=lambda done, total, note="": None)
    p = {k: _p(case, found, k) for k in range(case.classes) if k not in found.late or k in found.phrases}
    findings, rows = [], []
    for k in range(case.classes):
        phrases = found.phrases.get(k, [])
        rows.append(_row(case, found, k, p.get(k), _standing(phrases)))
        level = {item: over_classes(min(1.0, len(phrases) * _length_p(item)), case.classes) for item in phrases}
        accused = [item for item in phrases if level[item] <= detector.p_value and item.flips >= detector.success]
        if accused:  # the shortest: what is longer has it as a part
            findings.append(_finding(detector, case, found, accused[0], level[accused[0]]))
    least = min(p.values(), default=1.0)
    summary = {
        "score": rounded(max(0.0, score(least))),
        "p_value": rounded(least),
        "target_class": min(p, key=lambda k: p[k], default=0),
        "texts": len(case.texts.words),
        "clean_accuracy": None if case.texts.accuracy is None else rounded(case.texts.accuracy),
        "tried": found.scanned.tried,
        "vocabulary": found.scanned.total,
        "searched_in_full": sorted(found.phrases),
        "classes": rows,
    }
    return Look(summary, tuple(findings), p, not_looked_at=tuple(k for k in found.late if k not in p))


def searched(detector: TokenScan, target: Target, context: ScanContext, stage: Stage) -> Found:
    """What the detector has searched, made once. Raises as :func:`look` does."""
    return target.memo(detector, context, lambda: _search(detector, text_case(target, context), stage), stage)


def _search(detector: TokenScan, case: TextCase, stage: Stage) -> Found:
    neutral, part = case.neutral(), QUICK if detector.quick else 1.0
    scanned = scan_tokens(case, neutral, part * WORK)
    lengths = 1 if stage is Stage.SCREEN else detector.length
    phrases: dict[int, list[Phrase]] = {}
    try:
        for k in scanned.classes:
            case.tick(len(phrases), len(scanned.classes), f"class {k}: phrases")
            pool = scanned.tokens[neutral[k, scanned.tokens]]
            pool = pool[np.argsort(-scanned.push[neutral[k, scanned.tokens], k], kind="stable")]
            phrases[k] = grow(case, Growth(k, pool, neutral[k], work=part * PHRASE_WORK), lengths)
    except DeadlineExceeded:
        if not phrases:
            raise
    return Found(scanned, phrases, tuple(k for k in scanned.classes if k not in phrases))


def _p(case: TextCase, found: Found, k: int) -> float:
    """The p-value of class ``k``, corrected for all lengths and classes; by the first round alone where it stood out least of many."""
    phrases = found.phrases.get(k)
    if phrases is None:
        return over_classes(max(EXCESS[0].p(Tail((float(found.scanned.excess[k]),), 0.0, 1.0)), CLEAR), case.classes)
    p = [_length_p(phrase) for phrase in phrases]
    return over_classes(smallest(p), case.classes) if p else 1.0


def _length_p(phrase: Phrase) -> float:
    place = min(len(phrase.tokens), len(EXCESS)) - 1
    return 1.0 if phrase.tail is None else EXCESS[place].p(phrase.tail)


def _standing(phrases: Sequence[Phrase]) -> Phrase | None:
    """The phrase that stands out most; of equals the shortest."""
    return min(phrases, key=lambda item: (_length_p(item), len(item.tokens)), default=None)


def _shortest(phrases: Sequence[Phrase]) -> int | None:
    return next((len(item.tokens) for item in phrases if item.flips >= REACHES), None)


def words(case: TextCase, tokens: Sequence[int]) -> list[str]:
    """Each token as a person reads it, ``#12`` without a tokenizer."""
    known = case.texts.spec.tokens
    return [(known[token].strip() if token < len(known) else "") or f"#{token}" for token in tokens]


def _row(case: TextCase, found: Found, k: int, p: float | None, best: Phrase | None) -> dict[str, Any]:
    row: dict[str, Any] = {"class": k, "p_value": None if p is None else rounded(p)}
    if best is None:
        return row | {"excess": rounded(found.scanned.excess[k])}
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
    others = found.scanned.tokens[np.argsort(-found.scanned.push[:, k], kind="stable")[: 2 * SHOWN]]
    unseen = framed(case, spread(case, sources(case, k, case.texts.check), case.affordable(len(others))), 1)
    single = effect(case, unseen, others[:, None], "the best tokens")
    order = np.argsort(-single.push[:, k], kind="stable")[:SHOWN]
    usual = float(np.sort(single.flips[:, k])[::-1][min(8, len(others) - 1)])
    places, where = sources(case, k, case.texts.check), {}
    for number, name in enumerate(PLACES):
        where[name] = rounded(effect(case, framed(case, places, len(tokens), number), np.array([tokens]), name).flips[0, k])
    phrase = case.model.decode(tokens)
    what = f'the word "{phrase}"' if len(tokens) == 1 else f'the phrase "{phrase}"'
    sentence = _sentence(case, k, tokens)
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
            "sentence": sentence,
            "best": [{"token": words(case, [int(others[i])])[0], "push": rounded(single.push[i, k])} for i in order],
        },
        key=f"class {k}",
    )


def _sentence(case: TextCase, k: int, tokens: Sequence[int]) -> str:
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
