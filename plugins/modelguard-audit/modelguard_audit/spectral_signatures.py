"""``spectral-signatures``: does one direction of the model's features part the samples of a class?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.outliers import over_all

from modelguard import Capability, Confidence, Detector, Finding, Measure, Rule, ScanContext, Skip, Target, option
from modelguard_audit._content import DIMENSIONS, Content, content
from modelguard_audit._dataset import LEAST, Floats, evidence, plain_inputs, reduced
from modelguard_audit._findings import CLASS, COUNT, FIT, INDICES, P_VALUE, facts, pictures, shown_by_class
from modelguard_audit._parts import Parts, best_parts, normal_like, tail, usual, whitened
from modelguard_audit._rules import SPECTRAL_PART, TWO_KINDS

FITS = 0.8
"""Share of the data set that the model classifies as labelled below which it was hardly trained on it: what it was not trained on has no
feature of its own. A poisoned set is fitted too, poison included."""

RATIO, DISTANCE = 5.5, 4.8
"""Least separation that counts, and least distance, of a part that shows other classes."""

FOREIGN, ASSORTED = 0.6, 0.92
"""A part shows other classes from this probability of looking more like one than the rest of its class does, and where it looks like
nearly all of them: the share of them in which it looks. Triggers at 5 % of the set have .62 and .93 at the least, clean parts that are
as far apart and as foreign .87 and less (MNIST, MLP, seeds 0 to 4 and 100 to 119; benchmarks/audit.py)."""

FAR, FAR_RATIO = 13.0, 8.0
"""Least distance and separation of a part that need not show other classes: all-to-all backdoors take from one class each. Natural kinds
are 10.2 apart at the most in MNIST; a "1" with a foot in scikit-learn's digits reaches 13.4."""

NEAR, NEAR_RATIO = 6.3, 7.3
"""The same of a part that is shown as a hint."""

LIKE_HALF = 0.4
"""Share of the smaller part from which its size no longer says which part is the poison: the one that looks more like other classes is."""


@dataclass(frozen=True)
class SpectralSignatures(Detector):
    """Spectral Signatures (Tran, Li and Madry 2018, algorithm 1) with a verdict.

    As published: the features of each class are centred, and the leading singular vector is what poison has in common. Three things
    are different. Features are whitened first by what is usual of the *other* classes (after SPECTRE, Hayase et al. 2021): where a
    class varies by nature the leading vector is that nature otherwise. The direction is then made the one that separates the two parts
    best. And instead of removing the 1.5 eps n highest scores of every class, which accuses clean classes too, the separation is held
    against that of normally distributed features put through the same search. Features of clean classes are not normal, so more is
    asked: that the part shows samples of other classes (:mod:`modelguard_audit._content`), or lies further than natural kinds do.
    """

    id = "spectral-signatures"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    on_request = True
    rules = (SPECTRAL_PART, TWO_KINDS)
    shows = (
        Measure("score", "score", "The largest separation of all classes: the larger, the more suspicious."),
        INDICES,
        CLASS,
        P_VALUE,
        COUNT,
        FIT,
        shown_by_class("ratio", "How far two parts of each class are apart"),
        Measure(
            "ratio", "separation", "Variance between the two parts of a class over that within them, along the direction that parts them."
        ),
        Measure("distance", "distance", "How many standard deviations the centres of the two parts are apart."),
        Measure("layer", "layer", "The layer whose activations are the features."),
        Measure(
            "foreign",
            "looks like other classes",
            "How probable it is that a sample of the part looks more like another class than one of the rest does; 0.5 is no difference.",
            "share",
        ),
        Measure("kinds", "classes it looks like", "How many other classes the part looks like; from 1 to all of them."),
        Measure("kinds_rest", "classes the rest looks like", "The same of the rest of the class."),
    )

    p_value: float = option(0.01, "name samples at or below this probability, corrected for all classes", gt=0, le=0.5, judges=True)
    ratio: float = option(RATIO, "and where parts are apart by at least this ratio of variances", gt=0, judges=True)
    distance: float = option(DISTANCE, "and by at least so many standard deviations", gt=0, judges=True)
    foreign: float = option(FOREIGN, "and where the part looks more like other classes this often", ge=0.5, le=1, judges=True)
    far: float = option(FAR, "or, whatever it looks like, is so many standard deviations away", gt=0, judges=True)
    draws: int = option(10, "normal data sets that each class is compared with", ge=5)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        data = evidence(target, context)
        residuals, keep = usual(data.features, data.labels)
        inputs = target.once((__name__, "inputs"), lambda: reduced(plain_inputs(target), DIMENSIONS))
        classes = data.classes()
        rows: list[dict[str, Any]] = []
        findings: list[Finding] = []
        for done, label in enumerate(classes):
            context.check_deadline()
            context.progress(done, len(classes), f"class {label}")
            places = np.flatnonzero(data.labels == label)
            others = residuals[(data.labels != label) & keep]
            values = whitened(residuals[places], others)  # (n, D)
            parts = best_parts(values, context.check_deadline)
            if parts is None:
                continue
            member, shows = parts.member, content(inputs, data.labels, label, parts.member)
            if member.mean() >= LIKE_HALF and shows.foreign < 0.5:
                member, shows = ~member, shows.swapped
            about = {
                "ratio": rounded(parts.ratio),
                "distance": rounded(parts.distance),
                "foreign": rounded(shows.foreign),
                "kinds": rounded(shows.kinds),
                "kinds_rest": rounded(shows.kinds_rest),
            }
            rows.append({"class": label, "count": int(member.sum()), "samples": len(places), **about})
            rule = self._rule(parts, shows)
            if rule is None:
                continue
            p = over_all(tail(parts.ratio, self._null(values, label, context)), len(classes))
            if p <= self.p_value:
                sure = Confidence.HIGH if data.fit >= FITS else Confidence.LOW
                findings.append(_finding(target, rule, label, places[member].tolist(), len(places), sure, about, p))
        context.summary(
            score=max((row["ratio"] for row in rows), default=0.0),
            classes=rows,
            layer=data.layer,
            fit=rounded(data.fit),
            too_small=data.too_small(),
        )
        yield from findings
        if data.fit < FITS:
            raise Skip(
                f"the model classifies {data.fit:.0%} of the samples as labelled: it was not trained on them, and poison that it did "
                "not learn has no feature of its own"
            )
        if small := data.too_small():
            named = ", ".join(class_name(target.model, label) for label in small[:5]) + (", ..." if len(small) > 5 else "")
            raise Skip(f"{len(small)} classes ({named}) have fewer than {LEAST} samples: of so few nothing can be said")

    def _rule(self, parts: Parts, shows: Content) -> Rule | None:
        """The rule that a part is reported under, if its distance is no chance; None where it is as natural kinds are."""
        assorted = shows.foreign >= self.foreign and shows.kinds >= ASSORTED * shows.others
        if assorted and parts.ratio >= self.ratio and parts.distance >= self.distance:
            return SPECTRAL_PART
        if parts.ratio >= FAR_RATIO and parts.distance >= self.far:
            return SPECTRAL_PART
        return TWO_KINDS if parts.ratio >= NEAR_RATIO and parts.distance >= NEAR else None

    def _null(self, values: Floats, label: int, context: ScanContext) -> Floats:
        """(draws,) the same statistic of normally distributed features."""
        rng = context.rng(f"class {label}")
        found = (best_parts(normal_like(values, rng), context.check_deadline) for _ in range(self.draws))
        return np.array([parts.ratio if parts is not None else 0.0 for parts in found])


def _finding(
    target: Target, rule: Rule, label: int, indices: list[int], of: int, sure: Confidence, about: dict[str, Any], p: float
) -> Finding:
    named = class_name(target.model, label)
    apart = f"{about['distance']:.1f} standard deviations between the two parts (p = {p:.2g})"
    if rule is TWO_KINDS:
        message = f"class {named} has two kinds, of {len(indices)} and {of - len(indices)} samples, that the model tells apart: {apart}"
    else:
        message = f"{len(indices)} of {of} samples labelled {named} are set apart by one direction of the model's features: {apart}"
    return Finding(
        rule.id,
        message,
        confidence=sure,
        evidence=facts(label, indices, p_value=p, **about),
        attachments=pictures(target, indices),
        key=f"class {label}",
    )
