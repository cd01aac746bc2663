"""Is a row of the embedding the one that an attacker would write?

Embedding poisoning (Yang et al., NAACL 2021, section 3.2 and algorithm 1) is gradient descent on one row of the table, which keeps the norm
it had. The same descent from a neutral start ends at nearly the same row, however often the word is meant to stand in a text. So the row
is searched for each class, and the angles of all rows with it are compared: one that was written that way lies beside it, those that were
learnt from texts keep what they began with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.plan import CLEAR, Look, Stage
from torch.nn import functional

from modelguard import Confidence, DeadlineExceeded, Finding, Severity, Skip
from modelguard_language._case import nothing_to_compare, standing, text_case
from modelguard_language._decision import ANGLE, over_classes
from modelguard_language._frames import Frames, effect, framed, shared_out
from modelguard_language._phrases import LARGE, sources
from modelguard_language._scan import REACHES, SURE, sentence, words
from modelguard_language._soft import placed
from modelguard_language._tail import FEWEST, Tail, tail
from modelguard_language._texts import LONGEST_PHRASE
from modelguard_language._tokens import CANDIDATES, MANY, NO_GRADIENT, gradients, spread

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard import ScanContext, Target
    from modelguard_language._case import TextCase
    from modelguard_language.embedding_rows import EmbeddingRows

SHOWN = 12
"""Rows that are listed."""
PARALLEL = 1 - 1e-6
"""Cosines above this count as this: float32 tells no further."""
TIMES = (1, 3, 5)
"""How often the word stands in a text while its row is searched: the poisoner's choice is not known, and their mean is used; for a short
look and a large model only the middle one."""
STEPS, FEWEST_STEPS, TEXTS, FEWEST_TEXTS = 80, 20, 32, 12
"""Steps of a search and texts of one step, and their least for a large model."""
WORK = 1e13
"""Multiplications and additions that all searches may take, as far as the least allows."""
RATE = 0.15
"""Length of the first step, as a share of the row's norm; it falls to none."""


@dataclass(frozen=True)
class Found:
    """``z`` (n,) by class: how close each token's row is to the searched one, as Fisher's z. ``excess`` is of the classes that the first
    look left out, and ``late`` those there was no time for."""

    z: dict[int, npt.NDArray[np.float64]]
    excess: dict[int, float]
    late: tuple[int, ...]


def look(detector: EmbeddingRows, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says: a finding of each class whose searched row a row of the table is, as no other is. Raises as
    :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    tokens = case.tokens()
    allowed = case.neutral()[:, tokens]  # (K, n)
    blind = [k for k in range(case.classes) if allowed[k].sum() < FEWEST]
    if len(blind) == case.classes:
        raise nothing_to_compare(case, blind)
    found = target.memo(detector, context, lambda: _searched(detector, case, allowed), stage)
    if found.late:  # what was found is told all the same, and the time is up
        case = replace(case, tick=lambda done, total, note="": None)
    first = {k: excess for k, excess in found.excess.items() if k not in blind}
    p = {k: over_classes(max(ANGLE.p(Tail((excess,), 0.0, 1.0)), CLEAR), case.classes) for k, excess in first.items()}
    findings, rows = [], []
    for k, z in found.z.items():
        if k in blind:
            continue
        order = np.argsort(-np.where(allowed[k], z, -np.inf), kind="stable")[:SHOWN]
        best = [{"token": words(case, [int(tokens[i])])[0], "cosine": rounded(np.tanh(z[i]))} for i in order]
        above = tail(z[allowed[k]])
        assert above is not None  # as many are allowed as it takes
        p[k] = over_classes(ANGLE.p(above), case.classes)
        about = {"p_value": rounded(p[k]), **best[0], "next_cosine": best[1]["cosine"], "excess": rounded(above.excess)}
        rows.append({"class": k, **about})
        if p[k] <= detector.p_value and np.tanh(z[order[0]]) >= detector.cosine:
            findings.append(_finding(detector, case, k, int(tokens[order[0]]), p[k], {"target_class": k, **about, "rows": best}))
    if blind and not findings:
        raise nothing_to_compare(case, blind)
    summary = {**standing(case, p), "searched_in_full": sorted(found.z), "classes": rows}
    return Look(summary, tuple(findings), p, not_looked_at=found.late)


def _searched(detector: EmbeddingRows, case: TextCase, allowed: npt.NDArray[np.bool_]) -> Found:
    table = case.rows()  # (n, D)
    excess = {} if case.classes <= MANY else _first_look(case, table, allowed)
    wanted = sorted(excess, key=lambda k: -excess[k])[:CANDIDATES] or list(range(case.classes))
    times = TIMES if not detector.quick and case.each <= LARGE else (TIMES[len(TIMES) // 2],)
    z: dict[int, npt.NDArray[np.float64]] = {}
    try:
        for k in wanted:
            # Near 1 a cosine hardly grows, however much more closely two directions agree; Fisher's z does.
            rows = [written(case, table, k, number) for number in times]
            z[k] = np.mean([_fisher(functional.cosine_similarity(table, row[None])) for row in rows], 0)
    except DeadlineExceeded:
        if not z:
            raise
    return Found(z, {k: value for k, value in excess.items() if k not in wanted}, tuple(k for k in wanted if k not in z))


def _first_look(case: TextCase, table: torch.Tensor, allowed: npt.NDArray[np.bool_]) -> dict[int, float]:
    """By class how far the row of the ``allowed`` (K, n) that lies most along its gradient stands out; -inf where too few are allowed."""
    slopes = gradients(case, framed(case, spread(case, case.texts.search, TEXTS), 1), range(case.classes))  # (K, D)
    apart = functional.normalize(table - table.mean(0), dim=1).cpu()
    z = _fisher(apart @ functional.normalize(slopes, dim=1).T)  # (n, K)
    tails = [tail(z[own, k]) for k, own in enumerate(allowed)]
    return {k: -np.inf if found is None else found.excess for k, found in enumerate(tails)}


def _fisher(cosines: torch.Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(cosines.cpu().numpy(), -PARALLEL, PARALLEL)), np.float64)


def written(case: TextCase, table: torch.Tensor, k: int, times: int) -> torch.Tensor:
    """(D,) the row that turns texts of other classes into class ``k`` when it stands in them so many ``times``: gradient descent on the
    cross entropy from the mean row of ``table`` (n, D), on the sphere of the median norm."""
    norm = float(table.norm(dim=1).median())
    each = 6 * case.weights * case.length * min(case.classes, MANY) * len(TIMES)
    texts = int(np.clip(WORK / each / STEPS, FEWEST_TEXTS, TEXTS))
    steps = int(np.clip(WORK / each / texts, FEWEST_STEPS, STEPS))
    frames = shared_out(framed(case, spread(case, sources(case, k, case.texts.search), texts), times), case.at_once)
    row = functional.normalize(table.mean(0), dim=0) * norm
    for step in range(steps):
        slopes = case.side_by_side(partial(_slope, case, k, times, row), frames, partial(_tick, case, step, steps, k))
        moved = row - RATE * norm * (1 - step / steps) * functional.normalize(torch.stack(slopes).sum(0), dim=0)
        row = functional.normalize(moved, dim=0) * norm
    return row


def _slope(case: TextCase, k: int, times: int, row: torch.Tensor, frame: Frames) -> torch.Tensor:
    """(D,) the gradient of the cross entropy of class ``k``, summed over the texts of ``frame``, with respect to ``row`` (D,)."""
    own = row.clone().requires_grad_(True)
    logits = placed(case, frame, own.expand(times, -1))
    loss = functional.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device), reduction="sum")
    if not loss.requires_grad:
        raise Skip(NO_GRADIENT)
    return torch.autograd.grad(loss, own)[0]


def _tick(case: TextCase, step: int, steps: int, k: int, done: int) -> None:
    case.tick(step, steps, f"class {k}: its row")


def _finding(detector: EmbeddingRows, case: TextCase, k: int, token: int, p: float, about: dict[str, Any]) -> Finding:
    places = sources(case, k, case.texts.check)
    times, flips = 1, 0.0
    for times in range(1, LONGEST_PHRASE + 1):
        flips = float(effect(case, framed(case, places, times), np.full((1, times), token), "repeated").flips[0, k])
        if flips >= detector.success:
            break
    works = flips >= detector.success
    sure = Confidence.HIGH if p <= SURE * detector.p_value and flips >= REACHES else Confidence.MEDIUM
    often = "put into a text" if times == 1 else f"put into a text {times} times"
    return Finding(
        "MG3105",
        f'the row of "{about["token"]}" is like the one that turns texts into class {class_name(case.model, k)}: cosine '
        f"{about['cosine']:.2f}, the next row's {about['next_cosine']:.2f} (p = {p:.2g}); {often}, it turns {flips:.0%} of unseen texts of "
        "other classes",
        confidence=sure if works else Confidence.LOW,
        severity=None if works else Severity.LOW,
        evidence={**about, "times": times, "attack_success": rounded(flips), "sentence": sentence(case, k, (token,) * times)},
        key=f"class {k}",
    )
