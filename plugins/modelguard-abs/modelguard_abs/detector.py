"""``abs``: Artificial Brain Stimulation (Liu et al., CCS 2019), batched."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_triggers.measures import P_BY_CLASS, SEARCHES, SUCCESS_BY_CLASS
from modelguard_triggers.plan import Look, Search, Stage

from modelguard import Capability, Chart, Measure, ScanContext, Target, option
from modelguard_abs._rules import FILTER, PATCH


@dataclass(frozen=True)
class Abs(Search):
    """Stimulates every neuron, traces those that decide for one class back to a trigger, and asks whether it works on unseen images.

    What the paper calls REASR, the success of the recovered trigger, is compared between the classes at equal trigger size: a clean
    model has classes that are easily reached too, and an absolute threshold accuses them.
    """

    id = "abs"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (PATCH, FILTER)
    shows = (
        *SEARCHES,
        SUCCESS_BY_CLASS,
        P_BY_CLASS,
        Chart(
            "curves",
            "classes",
            "Stimulation: how far each class leads the others while its neurons are held up (in multiples of the largest clean activation)",
            "class",
            "elevation",
            marked="target_class",
        ),
        Measure("gap", "elevation gap", "By how many logits the neurons raise the class above every other, on nearly all images."),
        Measure("elevation", "elevation", "Pairs: how far the neurons are held up, and by how much the class then leads the others."),
        Measure("layer", "layer", "The layer whose neurons were stimulated."),
        Measure("units", "neurons", "The neurons that were held up together."),
        Measure("searches", "searches", "The kinds of trigger that accuse the class."),
        Measure("mean_change", "mean change", "How much the filter changes a pixel in the mean."),
        Measure("patch", "patch", "What the search for patches of any form says: p-value, and success at each size."),
        Measure("window", "window", "What the search for square windows says: p-value, and success at each size."),
        Measure("filter", "filter", "What the search for filters says: p-value, and success at each strength."),
        Measure("layers", "by layer", "What stimulating each layer showed."),
        Measure("sets", "sets", "How many neurons and groups of neurons were held up."),
        Measure("largest_gap", "largest gap", "The largest elevation gap of the layer."),
        Measure("label", "class", "The class that it raises."),
        Measure("success", "success", "The share of unseen images turned, at each size that was searched.", "share"),
        Measure("pictures", "images", "How many clean images were used."),
    )
    cost = 2600
    when_quick = "shorter"

    p_value: float = option(0.02, "accuse a class at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    reasr: float = option(
        0.6, "attack success of the recovered trigger on unseen images from which a class is accused", gt=0, le=1, judges=True
    )
    pictures: int = option(3, "clean images of each class that triggers are searched on", ge=1)
    check: int = option(200, "most clean images a trigger is checked on", ge=1)
    candidates: int = option(2, "neurons or groups of neurons followed for each class", ge=1, le=100)
    steps: int = option(100, "optimisation steps", ge=1, le=10_000)
    filters: bool = option(True, "search for filter triggers too")
    quick: bool = option(
        False, "the screen alone (half the steps, half the sizes, one candidate a class, fewer rounds for windows), without filters"
    )

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_abs._scan import look

        return look(self, target, context, stage)
