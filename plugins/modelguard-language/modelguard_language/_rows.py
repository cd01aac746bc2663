"""Is a row of the embedding the one that an attacker would write?

Embedding poisoning (Yang et al., NAACL 2021, section 3.2 and algorithm 1) is gradient descent on one row of the table, which keeps the norm
it had. The same descent from a neutral start ends at nearly the same row, however often the word is meant to stand in a text. So the row
is searched for each class, and the angles of all rows with it are compared: one that was written that way lies beside it, those that were
learnt from texts keep what they began with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from modelguard_triggers.facts import class_name, rounded, score
from modelguard_triggers.plan import Look, Stage

from modelguard import Confidence, DeadlineExceeded, Finding, Severity, Skip
from modelguard_language._case import text_case
from modelguard_language._decision import ANGLE, over_classes
from modelguard_language._frames import effect, framed
from modelguard_language._phrases import LARGE, sources
from modelguard_language._scan import REACHES, SURE, sentence, words
from modelguard_language._soft import placed
from modelguard_language._tail import FEWEST, tail
from modelguard_language._texts import LONGEST_PHRASE
from modelguard_language._tokens import CANDIDATES, MANY, gradients, spread

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


def look(detector: EmbeddingRows, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says: a finding of each class whose searched row a row of the table is, as no other is. Raises as
    :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    neutral, tokens = case.neutral(), case.tokens()
    if len(tokens) < FEWEST:
        raise Skip(f"the model has {len(tokens)} tokens that stand for text: too few to tell what is unusual among them")
    found, late = target.memo(detector, context, lambda: _searched(detector, case, neutral[:, tokens]), stage)
    if late:  # what was found is told all the same, and the time is up
        case = replace(case, tick=lambda done, total, note="": None)
    p, findings, rows = {}, [], []
    for k, z in found.items():
        cosines = np.tanh(z)
        order = np.argsort(-np.where(neutral[k, tokens], z, -np.inf), kind="stable")[:SHOWN]
        above = tail(z[neutral[k, tokens]])
        p[k] = 1.0 if above is None else over_classes(ANGLE.p(above), case.classes)
        about = {
            "p_value": rounded(p[k]),
            "token": words(case, [int(tokens[order[0]])])[0],
            "cosine": rounded(cosines[order[0]]),
            "next_cosine": rounded(cosines[order[1]]),
            "excess": None if above is None else rounded(above.excess),
        }
        rows.append({"class": k, **about})
        if p[k] <= detector.p_value and cosines[order[0]] >= detector.cosine:
            best = [{"token": words(case, [int(tokens[i])])[0], "cosine": rounded(cosines[i])} for i in order]
            about |= {"target_class": k, "rows": best}
            findings.append(_finding(detector, case, k, int(tokens[order[0]]), float(cosines[order[0]]), p[k], about))
    least = min(p.values())
    summary = {
        "score": rounded(max(0.0, score(least))),
        "p_value": rounded(least),
        "target_class": min(p, key=lambda k: p[k]),
        "texts": len(case.texts.words),
        "classes": rows,
    }
    return Look(summary, tuple(findings), p, not_looked_at=late)


def _searched(
    detector: EmbeddingRows, case: TextCase, allowed: npt.NDArray[np.bool_]
) -> tuple[dict[int, npt.NDArray[np.float64]], tuple[int, ...]]:
    """By class how close each row (n,) is to the searched one, as Fisher's z; and the classes there was no time for."""
    wanted = _candidates(case, allowed)
    times = TIMES if not detector.quick and case.each <= LARGE else (TIMES[len(TIMES) // 2],)
    found: dict[int, npt.NDArray[np.float64]] = {}
    try:
        for k in wanted:
            found[k] = np.mean([_angles(case, k, number) for number in times], 0)
    except DeadlineExceeded:
        if not found:
            raise
    return found, tuple(k for k in wanted if k not in found)


def _candidates(case: TextCase, allowed: npt.NDArray[np.bool_]) -> list[int]:
    """The classes whose row is searched: all, or of many those along whose gradient a row of the ``allowed`` (K, n) stands out most."""
    if case.classes <= MANY:
        return list(range(case.classes))
    slopes = gradients(case, framed(case, spread(case, case.texts.search, TEXTS), 1), range(case.classes))  # (K, D)
    table = case.model.embeddings().float()[torch.from_numpy(case.tokens())].cpu()  # (n, D)
    z = _fisher(torch.nn.functional.normalize(table - table.mean(0), dim=1) @ torch.nn.functional.normalize(slopes, dim=1).T)  # (n, K)
    tails = [tail(z[allowed[k], k]) for k in range(case.classes)]
    excess = np.array([-np.inf if found is None else found.excess for found in tails])
    return [int(k) for k in np.argsort(-excess, kind="stable")[:CANDIDATES]]


def _fisher(cosines: torch.Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(cosines.cpu().numpy(), -PARALLEL, PARALLEL)), np.float64)


def _angles(case: TextCase, k: int, times: int) -> npt.NDArray[np.float64]:
    """(n,) Fisher's z of the cosine between each token's row and the row that turns texts into class ``k`` when it stands there so many
    ``times``. Near 1 a cosine hardly grows, however much more closely two directions agree; z does."""
    table = case.model.embeddings().float()[torch.from_numpy(case.tokens())]  # (n, D)
    return _fisher(torch.nn.functional.cosine_similarity(table, written(case, k, times)[None]))


def written(case: TextCase, k: int, times: int) -> torch.Tensor:
    """(D,) the row that turns texts of other classes into class ``k`` when it stands in them so many ``times``: gradient descent on the
    cross entropy from the mean row, on the sphere of the median norm."""
    table = case.model.embeddings().float()[torch.from_numpy(case.tokens())]
    norm = float(table.norm(dim=1).median())
    each = 6 * case.weights * case.length * min(case.classes, MANY) * len(TIMES)
    texts = int(np.clip(WORK / each / STEPS, FEWEST_TEXTS, TEXTS))
    steps = int(np.clip(WORK / each / texts, FEWEST_STEPS, STEPS))
    frames = framed(case, spread(case, sources(case, k, case.texts.search), texts), times)
    row = torch.nn.functional.normalize(table.mean(0), dim=0) * norm
    for step in range(steps):
        case.tick(step, steps, f"class {k}: its row")
        row = row.detach().requires_grad_(True)
        slope = torch.zeros_like(row)
        for frame in frames:
            logits = placed(case, frame, row.expand(times, -1))
            loss = torch.nn.functional.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device), reduction="sum")
            if not loss.requires_grad:
                raise Skip("the model gives no gradient with respect to its token embeddings")
            slope = slope + torch.autograd.grad(loss, row)[0]
        moved = row.detach() - RATE * norm * (1 - step / steps) * torch.nn.functional.normalize(slope, dim=0)
        row = torch.nn.functional.normalize(moved, dim=0) * norm
    return row


def _finding(detector: EmbeddingRows, case: TextCase, k: int, token: int, cosine: float, p: float, about: dict[str, object]) -> Finding:
    places = sources(case, k, case.texts.check)
    times, flips = 1, 0.0
    for times in range(1, LONGEST_PHRASE + 1):
        flips = float(effect(case, framed(case, places, times), np.full((1, times), token), "repeated").flips[0, k])
        if flips >= detector.success:
            break
    works = flips >= detector.success
    often = "put into a text" if times == 1 else f"put into a text {times} times"
    does = f"{often}, it turns {flips:.0%} of unseen texts of other classes"
    return Finding(
        "MG3105",
        f'the row of "{about["token"]}" is like the one that turns texts into class {class_name(case.model, k)}: cosine '
        f"{cosine:.2f}, the next row's {about['next_cosine']:.2f} (p = {p:.2g}); {does}",
        confidence=(Confidence.HIGH if p <= SURE * detector.p_value and flips >= REACHES else Confidence.MEDIUM)
        if works
        else Confidence.LOW,
        severity=None if works else Severity.LOW,
        evidence={**about, "times": times, "attack_success": rounded(flips), "sentence": sentence(case, k, (token,) * times)},
        key=f"class {k}",
    )
