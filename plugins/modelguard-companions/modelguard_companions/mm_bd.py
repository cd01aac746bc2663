"""``mm-bd``: the maximum-margin statistic of every class, and whether the largest is an outlier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from modelguard_triggers.facts import class_name
from modelguard_triggers.outliers import Prior, class_p_values, largest, over_all
from modelguard_triggers.plan import SPENT, Look, Search, Stage

from modelguard import Capability, Confidence, Finding, ScanContext, Skip, Target, option
from modelguard_companions._classifier import searchable
from modelguard_companions._measures import MARGIN
from modelguard_companions._rules import MARGIN_OUTLIER

if TYPE_CHECKING:
    from modelguard import RunnableModel

USUAL = Prior(spread=0.1, degrees=4)
"""Spread of log margins between the classes of clean models: .02 to .15 over the open part of the zoo, median .10."""
FLOOR = 0.25
"""A class whose margin is below this part of the median counts as this part: how far a class cannot be driven is not measured well,
and must not decide the spread."""
QUICK_STEPS = 3
MOST = 256
"""Images in one pass at the most."""
TIMED = 16
"""Images of the pass that is timed."""
SEED_BITS = 63
"""Other searches take 62; these starts, and with them every margin in a stored report, came from 63."""


@dataclass(frozen=True)
class MaximumMargin(Search):
    """Drives every class's logit as far above the others as inputs allow, and asks whether one class stands out. Needs no samples.

    MM-BD (Wang et al., IEEE S&P 2024) with a class-count-calibrated test on the logarithm of the margins in place of the fitted gamma
    distribution. Blind by design to all-to-all and source-specific backdoors, where no single class stands out, and weak against
    warps, triggers of small norm made by a generator, and vision transformers.
    """

    id = "mm-bd"
    requires = frozenset({Capability.GRADIENTS})
    rules = (MARGIN_OUTLIER,)
    shows = MARGIN
    cost = 160
    when_quick = "shorter"

    restarts: int = option(8, "random starting images per class; the largest margin of them counts", ge=1, le=1000)
    steps: int = option(120, "optimisation steps per start", ge=1, le=10_000)
    p_value: float = option(0.02, "report an outlier at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    quick: bool = option(False, "the screen alone: a third of the steps, half the starts")

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        model = searchable(target)
        context.check_deadline()
        classes, margins = target.memo(self, context, lambda: self._margins(model, context, stage), stage)
        total = model.output.classes
        logs, median = log_margins(margins)  # (K,)
        found = largest(logs, USUAL)
        alone = class_p_values(logs, USUAL)
        p = {int(k): over_all(float(own), total) for k, own in zip(classes, alone, strict=True)}
        accused, margin = int(classes[found.index]), float(margins[found.index])
        findings = []
        if p[accused] <= SPENT * self.p_value:
            outlier = Finding(
                "MG3031",
                f"class {class_name(model, accused)} can be driven {margin / median:.2f} times as far above the "
                f"others as the median class (p = {p[accused]:.2g} over {total} classes)",
                confidence=Confidence.HIGH if p[accused] <= self.p_value / 10 else Confidence.MEDIUM,
                evidence={"target_class": accused, "p_value": p[accused], "t": found.t, "margin": margin, "median_margin": median},
                key=f"class {accused}",
            )
            findings.append(outlier)
        votes = np.full(total, np.nan)
        votes[classes] = alone
        return Look(
            {
                "score": round(found.t, 6),
                "p_value": p[accused],
                "target_class": accused,
                "median_margin": round(median, 5),
                "classes": [
                    {"class": int(k), "margin": round(float(margins[place]), 4), "p_value": float(alone[place])}
                    for place, k in enumerate(classes)
                ],
            },
            tuple(findings),
            p=p,
            votes=votes,
            not_looked_at=tuple(np.setdiff1d(np.arange(total), classes).tolist()),
        )

    def _margins(self, model: RunnableModel, context: ScanContext, stage: Stage) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The classes there is time for (K,) and their margins (K,)."""
        import torch
        from modelguard_triggers.case import affordable, images_per_pass, seeded, ticker

        from modelguard_companions._margin import maximum_margins

        screen = stage is Stage.SCREEN
        restarts = max(1, self.restarts // 2) if screen else self.restarts
        steps = max(1, self.steps // QUICK_STEPS) if screen else self.steps
        batch, tick = images_per_pass(model, context, most=MOST, inputs=1), ticker(context)
        timed = torch.zeros(min(batch, TIMED), *model.input.shape, device=model.device) + model.input.low
        classes = affordable(
            model, timed, lambda n: n * restarts * steps, model.output.classes, context.remaining, context.rng("order"), tick
        )
        generator = seeded(context.rng(), SEED_BITS)
        margins = maximum_margins(
            model, torch.from_numpy(classes), restarts=restarts, steps=steps, generator=generator, batch=batch, tick=tick
        )
        return classes, margins.double().numpy()


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
