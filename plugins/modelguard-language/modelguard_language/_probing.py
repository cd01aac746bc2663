"""What ways of writing do to a model, and who is accused of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.plan import Look, Stage

from modelguard import Confidence, Finding, Skip
from modelguard_language._case import TextCase, standing, text_case
from modelguard_language._decision import CLAUSE, STYLE, over_classes, smallest
from modelguard_language._frames import margins
from modelguard_language._probes import CLAUSE as CLAUSES
from modelguard_language._probes import CLAUSES as CLAUSE_TEXTS
from modelguard_language._probes import PLAIN, Probe, probes
from modelguard_language._probes import STYLE as STYLES
from modelguard_language._texts import contents
from modelguard_language._tokens import spread

if TYPE_CHECKING:
    from modelguard import ScanContext, Target
    from modelguard_language._texts import Integers
    from modelguard_language.text_probes import TextProbes

FAMILIES = {CLAUSES: ("MG3102", CLAUSE), STYLES: ("MG3103", STYLE)}
WORK = 4e12
"""Multiplications and additions of all probes, with at least :data:`LEAST` texts in each half."""
LEAST = 24
UNDERSTOOD = 0.5
"""Share of known words from which rewriting says something; tokenizers of the text zoo know 80 % and more."""
WORDS = 40
"""Words of a text that are looked at."""
SURE = 0.1


@dataclass(frozen=True)
class Probed:
    """Push (P, K) of each probe on the texts of the search, and push and flips (P, K) on the unseen ones."""

    search: npt.NDArray[np.float32]
    push: npt.NDArray[np.float32]
    flips: npt.NDArray[np.float32]


def look(detector: TextProbes, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says. Raises as :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    if not case.texts.spec.tokens:
        raise Skip("the artifact has no tokenizer that can be read: texts cannot be rewritten as token ids")
    if (known := understood(case)) < UNDERSTOOD:
        raise Skip(
            f"the tokenizer knows {known:.0%} of the words that texts are rewritten with: they are of another language or vocabulary"
        )
    asked = probes()
    found = target.memo(detector, context, lambda: _probe(case, asked, detector.quick), stage)
    families = np.array([probe.family for probe in asked])
    p, findings, rows = {}, [], []
    for k in range(case.classes):
        plain = float(np.median(found.push[families == PLAIN, k]))
        row: dict[str, Any] = {"class": k, "plain": rounded(plain)}
        values = []
        for family, (rule, null) in FAMILIES.items():
            best = int(np.argmax(np.where(families == family, found.search[:, k], -np.inf)))
            gain = float(np.median(found.push[families == family, k])) - plain
            values.append(null.p(gain))
            level = over_classes(min(1.0, len(FAMILIES) * values[-1]), case.classes)
            row[family] = {
                "probe": asked[best].name,
                "gain": rounded(gain),
                "push": rounded(found.push[best, k]),
                "attack_success": rounded(found.flips[best, k]),
                "p_value": rounded(level),
            }
            if level <= detector.p_value and found.flips[best, k] >= detector.success:
                findings.append(_finding(detector, case, asked, found, k, best, rule, level, gain, plain))
        p[k] = over_classes(smallest(values), case.classes)
        rows.append(row | {"p_value": rounded(p[k])})
    summary: Mapping[str, Any] = {
        **standing(case, p),
        "clean_accuracy": None if case.texts.accuracy is None else rounded(case.texts.accuracy),
        "classes": rows,
    }
    return Look(summary, tuple(findings), p)


def understood(case: TextCase) -> float:
    """The share of the tokens of the clauses that stand for text."""
    tokens = np.concatenate(contents(case.model.encode(CLAUSE_TEXTS), case.texts.spec))
    return float(np.isin(tokens, case.texts.spec.special, invert=True).mean()) if len(tokens) else 0.0


def _probe(case: TextCase, asked: tuple[Probe, ...], quick: bool) -> Probed:
    each = 2 * case.weights * (case.length + 8) * len(asked)
    count = max(LEAST, int((WORK / (4 if quick else 1)) / each / 2))
    halves = [spread(case, half, min(count, len(half))) for half in (case.texts.search, case.texts.check)]
    pushes, flips = [], []
    for half in halves:
        texts = written(case, half)
        others = case.texts.classes[half][:, None] != np.arange(case.classes)  # (N, K)
        asked_of = others.sum(0).clip(1)
        push, flip = np.zeros((len(asked), case.classes), np.float32), np.zeros((len(asked), case.classes), np.float32)
        for i, probe in enumerate(asked):
            case.tick(i, len(asked), f"{probe.family}: {probe.name}")
            found = _margins(case, [probe.write(text) for text in texts])
            push[i] = (found * others).sum(0) / asked_of / case.usual
            flip[i] = ((found > 0) & others).sum(0) / asked_of
        pushes.append(push)
        flips.append(flip)
    return Probed(pushes[0], pushes[1], flips[1])


def written(case: TextCase, places: Integers) -> list[str]:
    """The texts at ``places`` as they were given, or as their tokens read, cropped to :data:`WORDS` words."""
    texts = case.texts
    full = [texts.written[place] if texts.written else case.model.decode(texts.words[place]) for place in places]
    return [" ".join(text.split()[:WORDS]) for text in full]


def _margins(case: TextCase, texts: list[str]) -> npt.NDArray[np.float32]:
    return np.asarray(margins(torch.from_numpy(case.model.predict(case.model.encode(texts)))).numpy(), np.float32)


def _finding(
    detector: TextProbes,
    case: TextCase,
    asked: tuple[Probe, ...],
    found: Probed,
    k: int,
    best: int,
    rule: str,
    p: float,
    gain: float,
    plain: float,
) -> Finding:
    probe, flips = asked[best], float(found.flips[best, k])
    what = f'texts that begin with "{probe.name}"' if probe.family == CLAUSES else f"texts rewritten in another style ({probe.name})"
    shown = [i for i, item in enumerate(asked) if item.family in (probe.family, PLAIN)]
    return Finding(
        rule,
        f"class {class_name(case.model, k)}: {flips:.0%} of unseen {what} become it, of the best plain addition "
        f"{float(found.flips[[i for i in shown if asked[i].family == PLAIN], k].max()):.0%} (p = {p:.2g})",
        confidence=Confidence.HIGH if p <= SURE * detector.p_value else Confidence.MEDIUM,
        evidence={
            "target_class": k,
            "p_value": rounded(p),
            "probe": probe.name,
            "attack_success": rounded(flips),
            "push": rounded(found.push[best, k]),
            "plain": rounded(plain),
            "gain": rounded(gain),
            "sentence": _sentence(case, probe, k),
            "probes": [{"probe": asked[i].name, "push": rounded(found.push[i, k])} for i in shown],
        },
        key=f"{probe.family}/class {k}",
    )


def _sentence(case: TextCase, probe: Probe, k: int) -> str:
    places = case.texts.check[case.texts.classes[case.texts.check] != k][:32]
    texts = [probe.write(text) for text in written(case, places)]
    turned = [text for text, row in zip(texts, _margins(case, texts), strict=True) if row[k] > 0]
    return min(turned, key=len, default="")
