"""``roni``: which samples make a linear classifier worse at samples it has not seen?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from modelguard_triggers.facts import class_name, rounded

from modelguard import Capability, Confidence, Detector, Finding, Measure, ScanContext, Target, option
from modelguard_audit._dataset import Floats, Integers, evidence, plain_inputs, reduced
from modelguard_audit._findings import CLASS, COUNT, INDICES, facts, pictures
from modelguard_audit._rules import HARMFUL

RIDGE = 0.01
FOLDS = 2


@dataclass(frozen=True)
class Roni(Detector):
    """Reject on negative impact (Nelson et al. 2008, section 4.1; Barreno et al. 2010, section 3.4), for every sample at once.

    A sample's impact is by how much the squared error of a linear classifier on held-out samples rises because it is in the training set:
    in closed form, since the classifier is a ridge regression onto the classes (the leave-one-out formula of Cook and Weisberg 1982).
    What counts as harm is told by the spread of all samples' impacts.
    """

    id = "roni"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    on_request = True
    rules = (HARMFUL,)
    shows = (
        Measure("score", "score", "The largest impact, in the spread of all: the larger, the more suspicious."),
        INDICES,
        CLASS,
        COUNT,
        Measure("impact", "impact", "How much worse the classifier is with the sample than without, in the spread of all samples."),
    )

    features: str = option("inputs", "what the classifier sees: inputs, or model for the model's last features")
    deviations: float = option(8.0, "name samples whose impact is so many spreads (1.4826 MAD) above the median", gt=0, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        data = evidence(target, context)
        values = data.features if self.features == "model" else reduced(plain_inputs(target))
        context.check_deadline()
        impact = impacts(values, data.labels, context.rng("folds"))  # (N,)
        middle = float(np.median(impact))
        spread = max(1.4826 * float(np.median(np.abs(impact - middle))), 1e-12)
        z = (impact - middle) / spread
        named = z >= self.deviations
        context.summary(score=rounded(z.max()), named=int(named.sum()), fit=rounded(data.fit))
        for label in np.unique(data.labels[named]).tolist():
            context.check_deadline()
            indices = np.flatnonzero(named & (data.labels == label))
            yield Finding(
                "MG4004",
                f"{len(indices)} samples labelled {class_name(target.model, label)} make a linear classifier worse at samples like them; "
                "a hint, no verdict",
                confidence=Confidence.LOW,
                evidence=facts(label, indices.tolist(), impact=float(z[indices].max())),
                attachments=pictures(target, indices.tolist()),
                key=f"class {label}",
            )


def impacts(values: Floats, labels: Integers, rng: np.random.Generator) -> Floats:
    """(N,) the rise of the mean squared error on the samples of the other fold that a sample of ``values`` (N, D) in the fold causes."""
    centred = values - values.mean(0)
    x = np.concatenate([centred / max(float(centred.std()), 1e-12), np.ones((len(values), 1))], axis=1)  # (N, D + 1)
    wanted = np.eye(int(labels.max()) + 1)[labels]  # (N, K)
    impact = np.zeros(len(values))
    order = rng.permutation(len(values))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        used = np.setdiff1d(order, held)
        inverse = np.linalg.inv(x[used].T @ x[used] + RIDGE * len(used) * np.eye(x.shape[1]))
        weights = inverse @ x[used].T @ wanted[used]  # (D + 1, K)
        errors = x[held] @ weights - wanted[held]  # (H, K)
        pull = x[used] @ inverse  # (M, D + 1): what each sample does to the weights
        leverage = (pull * x[used]).sum(1)  # (M,)
        residual = (wanted[used] - x[used] @ weights) / (1 - leverage)[:, None]  # (M, K) without the sample itself
        # With the sample the weights are those without it plus the outer product of its pull and residual. The change of the held-out
        # squared error, to first order and second, needs only the scatter of the held-out samples.
        scatter = x[held].T @ x[held] / len(held)
        slope = x[held].T @ errors / len(held)  # (D + 1, K)
        first = 2 * ((pull @ slope) * residual).sum(1)
        second = ((pull @ scatter) * pull).sum(1) * (residual**2).sum(1)
        impact[used] += first - second  # error with it, less error without it
    return impact / (FOLDS - 1)
