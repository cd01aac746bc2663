"""What samples of a class show, judged by the other classes alone."""

from __future__ import annotations

import numpy as np

from modelguard_audit._dataset import Floats, Integers

RIDGE = 0.01
DIMENSIONS = 64


def strangeness(values: Floats, labels: Integers, label: int) -> Floats:
    """(n,) how much each sample under ``label`` looks like one of another class: the best score that a linear classifier of ``values``
    (N, D), trained on the samples of the other classes, gives it.

    Exclusionary reclassification (Chen et al. 2018, section 4.3) without the class itself: neither its poison nor its natural kinds teach
    the classifier anything.
    """
    others = labels != label
    x = values - values[others].mean(0)
    x = np.concatenate([x / max(float(x[others].std()), 1e-12), np.ones((len(x), 1))], axis=1)  # (N, D + 1)
    wanted = np.eye(int(labels.max()) + 1)[labels[others]]  # (M, K)
    scatter = x[others].T @ x[others] + RIDGE * others.sum() * np.eye(x.shape[1])
    scores: Floats = x[~others] @ np.linalg.solve(scatter, x[others].T @ wanted)
    best: Floats = scores.max(1)
    return best
