"""``mm-bd``: the maximum-margin statistic of every class, and whether the largest is an outlier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_triggers.facts import class_name
from modelguard_triggers.outliers import Prior, class_p_values, largest

from modelguard import Capability, Confidence, Finding, ScanContext, Skip, Target, option
from modelguard_companions._classifier import searchable
from modelguard_companions._rules import MARGIN_OUTLIER
from modelguard_companions._table import TableVoter

USUAL = Prior(spread=0.1, degrees=4)
"""Spread of log margins between the classes of clean models: .02 to .15 over the open part of the zoo, median .10."""
FLOOR = 0.25
"""A class whose margin is below this part of the median counts as this part: how far a class cannot be driven is not measured well,
and must not decide the spread."""
QUICK_STEPS = 3
MOST = 256
"""Images in one pass at the most."""
SEED_BITS = 63
"""Other searches take 62; these starts, and with them every margin in a stored report, came from 63."""


@dataclass(frozen=True)
class MaximumMargin(TableVoter):
    """Drives every class's logit as far above the others as inputs allow, and asks whether one class stands out. Needs no samples.

    MM-BD (Wang et al., IEEE S&P 2024) with a class-count-calibrated test on the logarithm of the margins in place of the fitted gamma
    distribution. Blind by design to all-to-all and source-specific backdoors, where no single class stands out, and weak against
    warps, triggers of small norm made by a generator, and vision transformers.
    """

    id = "mm-bd"
    requires = frozenset({Capability.GRADIENTS})
    rules = (MARGIN_OUTLIER,)
    when_quick = "shorter"

    restarts: int = option(8, "random starting images per class; the largest margin of them counts", ge=1, le=1000)
    steps: int = option(120, "optimisation steps per start", ge=1, le=10_000)
    p_value: float = option(0.02, "report an outlier at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    quick: bool = option(False, "a third of the steps, half the starts")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        model = searchable(target)
        from modelguard_triggers.case import images_per_pass, seeded, ticker

        from modelguard_companions._margin import maximum_margins

        context.check_deadline()
        margins = target.memo(
            self,
            context,
            lambda: maximum_margins(
                model,
                restarts=max(1, self.restarts // 2) if self.quick else self.restarts,
                steps=max(1, self.steps // QUICK_STEPS) if self.quick else self.steps,
                generator=seeded(context.rng(), SEED_BITS),
                batch=images_per_pass(model, context, most=MOST, inputs=1),
                tick=ticker(context),
            ),
        )
        logs, median = log_margins(margins.double().numpy())  # (K,)
        found = largest(logs, USUAL)
        alone = class_p_values(logs, USUAL)
        context.summary(
            score=round(found.t, 6),
            p_value=found.p_value,
            target_class=found.index,
            median_margin=round(median, 5),
            classes=[{"class": k, "margin": round(float(margins[k]), 4), "p_value": float(alone[k])} for k in range(len(logs))],
        )
        if found.p_value <= self.p_value:
            yield Finding(
                "MG3031",
                f"class {class_name(model, found.index)} can be driven {float(margins[found.index]) / median:.2f} times as far above the "
                f"others as the median class (p = {found.p_value:.2g} over {len(logs)} classes)",
                confidence=Confidence.HIGH if found.p_value <= self.p_value / 10 else Confidence.MEDIUM,
                evidence={
                    "target_class": found.index,
                    "p_value": found.p_value,
                    "t": found.t,
                    "margin": float(margins[found.index]),
                    "median_margin": median,
                },
                key=f"class {found.index}",
            )


def log_margins(margins: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Logarithms of margins (K,), floored, and the median margin.

    A margin of zero or less says that no input was found for which the class wins. Raises :class:`Skip` when that is half of the
    classes: then the search was not over the inputs the model is made for.
    """
    if not np.isfinite(margins).all():
        raise Skip("the model returns values that are not finite for inputs within its stated range")
    median = float(np.median(margins))
    if median <= 0:
        raise Skip(
            f"no input was found for which {int((margins <= 0).sum())} of {len(margins)} classes win: the stated input range or "
            "normalisation is probably not the model's"
        )
    return np.log(np.maximum(margins, FLOOR * median)), median
