"""``early-loss``: which samples does a fresh probe learn first?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from modelguard_triggers.facts import class_name, rounded, score
from modelguard_triggers.outliers import over_all

from modelguard import Capability, Confidence, Detector, Finding, Measure, ScanContext, Target, option
from modelguard_audit._dataset import LEAST, Floats, Integers, plain_inputs, reduced, required_labels
from modelguard_audit._findings import CLASS, COUNT, INDICES, P_VALUE, facts, pictures, shown_by_class
from modelguard_audit._parts import cut, tail
from modelguard_audit._rules import LEARNED_FIRST

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN = 64
RATE = 1e-2
TRAPPED = 0.5
"""Loss below which a sample is pushed up again, so that what is learned first is told from what is learned (local gradient ascent, Li et
al. 2021, section 3.2, gamma = .5)."""
EPOCHS = 5
BATCH = 64


@dataclass(frozen=True)
class EarlyLoss(Detector):
    """The isolation stage of Anti-Backdoor Learning (Li et al. 2021, section 3.2) with a probe of our own: one hidden layer, trained here
    on the inputs, with local gradient ascent. Samples are ranked by loss within their class, because classes differ in how hard they are.

    Published, the 1 % with the lowest loss are isolated whatever they are. Here the losses of a class have to fall into two parts that
    are further apart than those of the median class.
    """

    id = "early-loss"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    on_request = True
    rules = (LEARNED_FIRST,)
    shows = (
        Measure("score", "score", "-log10 of the smallest p-value: the larger, the more suspicious."),
        INDICES,
        CLASS,
        P_VALUE,
        COUNT,
        shown_by_class("ratio", "How far the losses of samples learned first lie from the others'"),
        Measure("ratio", "separation", "Variance between the losses of the two parts of a class over that within them."),
    )

    p_value: float = option(0.01, "name samples at or below this probability, corrected for all classes", gt=0, le=0.5, judges=True)
    probes: int = option(3, "probes trained, from different starts, whose losses are averaged", ge=1)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        labels = required_labels(target)
        inputs = reduced(plain_inputs(target))
        inputs = (inputs - inputs.mean(0)) / max(float(inputs.std()), 1e-12)
        seeds = context.rng("probes").integers(0, 2**31, self.probes)
        losses = sum(early_losses(inputs, labels, int(seed), context.check_deadline) for seed in seeds) / self.probes  # (N,)
        logs = np.log(np.maximum(losses, 1e-6))
        counts = np.bincount(labels)
        classes = [int(label) for label in np.flatnonzero(counts >= LEAST)]
        found = {label: cut(logs[labels == label]) for label in classes}
        ratios = np.array([found[label][1] for label in classes])
        rows, findings = [], []
        for place, label in enumerate(classes):
            others = np.delete(ratios, place)
            p = over_all(tail(ratios[place], others), len(classes)) if len(others) >= 4 else 1.0
            places = np.flatnonzero(labels == label)
            indices = places[~found[label][0]]  # the part with the low losses
            rows.append({"class": label, "ratio": rounded(ratios[place]), "p_value": rounded(p), "count": len(indices)})
            if p <= self.p_value:
                findings.append((label, indices.tolist(), float(ratios[place]), p, len(places)))
        context.summary(score=rounded(score(min((row["p_value"] for row in rows), default=1.0))), classes=rows)
        for label, indices, ratio, p, of in findings:
            yield Finding(
                "MG4003",
                f"a fresh probe learns {len(indices)} of {of} samples labelled {class_name(target.model, label)} long before the others "
                f"(p = {p:.2g}); a hint, no verdict",
                confidence=Confidence.LOW,
                evidence=facts(label, indices, p_value=p, ratio=ratio),
                attachments=pictures(target, indices),
                key=f"class {label}",
            )


def early_losses(inputs: Floats, labels: Integers, seed: int, tick: Callable[[], None]) -> Floats:
    """(N,) cross-entropy of each sample, averaged over the epochs of a probe trained on ``inputs`` (N, F) from the start ``seed``."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels)
    probe = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, int(labels.max()) + 1))
    with torch.no_grad():
        for parameter in probe.parameters():
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    optimiser = torch.optim.Adam(probe.parameters(), lr=RATE)
    total = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        for begin in range(0, len(x), BATCH):
            tick()
            chosen = order[begin : begin + BATCH]
            loss = F.cross_entropy(probe(x[chosen]), y[chosen], reduction="none")
            optimiser.zero_grad()
            (torch.sign(loss.detach() - TRAPPED) * loss).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            total += F.cross_entropy(probe(x), y, reduction="none").double()
    mean: Floats = (total / EPOCHS).numpy()
    return mean
