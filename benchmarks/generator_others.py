"""Other statistics for triggers made by a network, measured beside `generator-inversion` and not shipped: see `generator.py`.

`decoupled` is BTI-DBF's inversion (Xu et al., ICLR 2024) with the verdict it lacks: a mask splits the features before the last layer into
those that keep the labels and the rest, one generator without any wanted class changes the rest as far as its room allows, and what is
measured is into how few classes it turns images it was not trained on, and how much the class it turns them into says of the one they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from modelguard_neural_cleanse._generator import BATCH, LADDER, RATE, Generator, changed, natural_distance
from modelguard_triggers.case import Case
from torch import Tensor
from torch.nn import functional as F

from modelguard import ModelError

MASK_STEPS, MASK_RATE, MASK_WEIGHT = 200, 0.05, 0.01
FIRST, THEN = 80, 30


def decoupled(case: Case, stream: str) -> list[dict[str, Any]]:
    """One entry for each step of the ladder: the largest share of unseen images of other classes that one class takes, the share turned at
    all, and the mutual information of class and induced class, as a part of the class's entropy."""
    front, back = _last_cut(case)
    evidence, spec = case.evidence, case.model.input
    generator = case.generator(stream)
    with torch.no_grad():
        features = front(evidence.search)
    keep = _mask(back, features, evidence.search_labels)
    unit = natural_distance(evidence.search, evidence.search_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed() % 2**62)
        network = Generator(evidence.shape[0], 1)
    learner = torch.optim.Adam(network.parameters(), lr=RATE)
    scale = features.square().mean().sqrt().clamp(min=1e-6)
    rows = []
    for rung, part in enumerate(LADDER):
        for _ in range(FIRST if rung == 0 else THEN):
            at = torch.randint(len(evidence.search), (min(BATCH, case.batch),), generator=generator)
            x = evidence.search[at]
            stamped, _ = changed(network, x, torch.zeros(len(x), dtype=torch.int64), part * unit, spec.low, spec.high)
            moved = (front(stamped) - features[at]) / scale
            # as far as possible on what does not keep the label, .01 of the other (btidbf.py)
            loss = -((1 - keep) * moved).square().mean() + 0.01 * (keep * moved).square().mean()
            learner.zero_grad()
            loss.backward()
            learner.step()
        rows.append(_spread(case, network, part * unit))
    return rows


def _mask(back: Any, features: Tensor, labels: Tensor) -> Tensor:
    """(1, ...) in 0..1: what of the features keeps the labels. min CE(f(m h)) - CE(f((1 - m) h)) + weight |m| (BTI-DBF, equation 3)."""
    raw = torch.zeros(1, *features.shape[1:], requires_grad=True)
    learner = torch.optim.Adam([raw], lr=MASK_RATE)
    for _ in range(MASK_STEPS):
        mask = raw.sigmoid()
        kept, rest = F.cross_entropy(back(mask * features), labels), F.cross_entropy(back((1 - mask) * features), labels)
        loss = kept - rest.clamp(max=5) + MASK_WEIGHT * mask.mean()
        learner.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        learner.step()
    return raw.sigmoid().detach()


@torch.no_grad()
def _spread(case: Case, network: Generator, budget: float) -> dict[str, Any]:
    evidence, spec = case.evidence, case.model.input
    x, labels = evidence.check, evidence.check_labels.numpy()
    stamped, _ = changed(network, x, torch.zeros(len(x), dtype=torch.int64), budget, spec.low, spec.high)
    said = case.model(stamped).argmax(1).numpy()
    joint = np.zeros((evidence.classes, evidence.classes))
    np.add.at(joint, (labels, said), 1 / len(labels))
    taken = [float((said[labels != k] == k).mean()) for k in range(evidence.classes)]
    own, induced = joint.sum(1), joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = float(np.nansum(joint * np.log(joint / np.outer(own, induced))))
        entropy = float(-np.nansum(own * np.log(own)))
    turned = float((said != labels).mean())
    return {
        "concentration": round(max(taken), 4),
        "class": int(np.argmax(taken)),
        "turned": round(turned, 4),
        "information": round(turned * information / entropy, 4),
    }


def _last_cut(case: Case) -> tuple[Any, Any]:
    """The last layer before the last dense one at which the model can be cut."""
    layers = case.model.layers
    last = max(place for place, layer in enumerate(layers) if layer.kind == "linear")
    for layer in reversed(layers[:last]):
        try:
            return case.model.split(layer.name)
        except ModelError:
            continue
    raise ModelError("model", "it cannot be cut before its last layer", "leave this statistic out")
