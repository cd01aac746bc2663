"""The detectors: Neural Cleanse (Wang et al., IEEE S&P 2019) for patches, and the same search for triggers that are not patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modelguard_triggers.measures import SEARCHES, SUCCESS_BY_CLASS, by_class
from modelguard_triggers.plan import Look, Search, Stage

from modelguard import Capability, Measure, ScanContext, Target, option
from modelguard_neural_cleanse._rules import BLEND, COLOUR, GENERATED, GENERATED_MAP, MAP, PATCH, SOURCE, WARP

if TYPE_CHECKING:
    from modelguard_neural_cleanse._transforms import Transform

REQUIRES = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
SCHEDULE = Measure("schedule", "schedule", "In which steps the search went.")
WARPS = (
    Measure("strength", "strength", "How far pixels were moved, as a part of the image's side."),
    Measure("tried", "tried", "The success of the best warp at each strength."),
    Measure("typical_success", "usual success", "The success of the best warp into the median of the other classes.", "share"),
    Measure("next_success", "next success", "The success of the best warp into any other class.", "share"),
)
SIZES = (
    *SEARCHES,
    by_class("size", "Trigger size by class: below the line a class is accused", "share", "largest_accused"),
    SUCCESS_BY_CLASS,
    Measure("largest_accused", "largest accused size", "A trigger as large as this, or larger, accuses nobody.", "share"),
    Measure("typical_size", "usual trigger size", "The size of the trigger that a typical class needs.", "share"),
    SCHEDULE,
)


@dataclass(frozen=True)
class SizeCleanse(Search):
    """Of one family of transformations: for every class the smallest trigger that turns images of all others into it."""

    requires = REQUIRES
    shows = SIZES

    alpha: float = option(0.01, "significance below which a class's trigger is too small to be chance", gt=0, le=1, judges=True)
    ratio: float = option(0.75, "largest accused trigger, relative to the typical class", gt=0, le=1, judges=True)
    area: float = option(
        0.25, "largest accused trigger: the part of the image a patch covers, the opacity of a blend", gt=0, le=1, judges=True
    )
    success: float = option(0.75, "attack success on unseen images from which a class is accused", ge=0, le=1, judges=True)
    samples: int = option(400, "most clean samples used, half to search and half to verify", ge=10)
    schedule: Literal["batched", "paper"] = option("batched", "`paper`: the authors' own, one class after the other; many times slower")

    def family(self) -> type[Transform]:
        """The transformations that are searched."""
        raise NotImplementedError

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_neural_cleanse._universal import look

        return look(self, target, context, self.family(), stage)


@dataclass(frozen=True)
class NeuralCleanse(SizeCleanse):
    """For every class the smallest patch that turns images of all others into it; a class reached by far too small a patch is accused."""

    id = "neural-cleanse"
    rules = (PATCH,)
    cost = 1200
    when_quick = "shorter"

    quick: bool = option(False, "the screen alone: half the steps, and no full search of what it cannot clear")

    def family(self) -> type[Transform]:
        from modelguard_neural_cleanse._transforms import Patch

        return Patch


@dataclass(frozen=True)
class BlendCleanse(NeuralCleanse):
    """As neural-cleanse, for faint patterns over the whole image: Blended, SIG, reflections."""

    id = "neural-cleanse-blend"
    rules = (BLEND,)
    cost = 1200

    def family(self) -> type[Transform]:
        from modelguard_neural_cleanse._transforms import Blend

        return Blend


@dataclass(frozen=True)
class WarpCleanse(Search):
    """For every class the warp that turns most images into it; the one class that slight warps reach is accused (WaNet)."""

    id = "neural-cleanse-warp"
    requires = REQUIRES
    rules = (WARP,)
    shows = (*SEARCHES, by_class("attack_success", "Success of the best warp by class", "share"), SUCCESS_BY_CLASS, *WARPS)
    cost = 1344
    when_quick = "skipped"

    # Clean models of 8 x 8 images go down to .003 and warped ones of 28 x 28 and more stay below .0006, 8 x 8 between (README).
    alpha: float = option(0.001, "significance below which a class's success is too high to be chance", gt=0, le=1, judges=True)
    area: float = option(0.1, "largest accused warp: mean displacement as a part of the image's side", gt=0, le=1, judges=True)
    success: float = option(0.75, "attack success on unseen images from which a class is accused", ge=0, le=1, judges=True)
    samples: int = option(400, "most clean samples used, half to search and half to verify", ge=10)

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_neural_cleanse._warps import look_at_warps

        return look_at_warps(self, target, context, stage)


@dataclass(frozen=True)
class ColourCleanse(SizeCleanse):
    """As neural-cleanse, for invertible colour changes."""

    id = "neural-cleanse-colour"
    rules = (COLOUR,)
    cost = 1200
    when_quick = "skipped"

    def family(self) -> type[Transform]:
        from modelguard_neural_cleanse._transforms import Colour

        return Colour


@dataclass(frozen=True)
class LabelMapCleanse(Search):
    """A patch that moves every class to another one (all-to-all), searched for every cyclic shift of the classes."""

    id = "neural-cleanse-all-to-all"
    requires = REQUIRES
    rules = (MAP,)
    shows = (
        *SEARCHES,
        SCHEDULE,
        Measure("shift", "shift", "By how many classes the map moves every class."),
        Measure("maps", "by map", "What was found for each way of moving all classes by a number of places."),
        Measure("targets", "moved to", "The class that each class is moved to."),
    )
    cost = 1200
    when_quick = "skipped"

    area: float = option(0.25, "largest accused trigger, as a part of the image", gt=0, le=1, judges=True)
    success: float = option(0.6, "attack success on unseen images from which a label map is accused", ge=0, le=1, judges=True)
    samples: int = option(400, "most clean samples used, half to search and half to verify", ge=10)

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_neural_cleanse._labelmaps import look_at_label_maps

        return look_at_label_maps(self, target, context, stage)


@dataclass(frozen=True)
class SourceCleanse(Search):
    """For every pair of classes the window that best turns one into the other; one that leaves all other classes alone is accused."""

    id = "neural-cleanse-pairs"
    requires = REQUIRES
    rules = (SOURCE,)
    shows = (
        *SEARCHES,
        Measure("turned", "attack success", "The share of unseen images of the source that the window turns into the target.", "share"),
        Measure("others_kept", "others kept", "The share of unseen images of other classes that the window leaves alone.", "share"),
        Measure("source", "source class", "The class whose images are turned."),
        Measure("target", "target class", "The class they are turned into."),
        SCHEDULE,
        Measure("pairs", "by pair", "What was found for the pairs of classes that stand out most."),
        Measure("pairs_searched", "pairs searched", "How many pairs of classes were searched."),
        Measure("pairs_total", "pairs in all", "How many pairs of classes there are."),
        Measure("sources_searched", "sources searched", "The classes of which a trigger was searched."),
        Measure("sources_not_searched", "sources not searched", "The classes of which there were too few images, or no time."),
        Measure(
            "statistic", "statistic", "What the p-value is computed from: how much more the window does to the source than to the others."
        ),
        Measure("window", "window", "The side of the windows that were searched, in pixels."),
        Measure("side", "side", "The side of the window, in pixels."),
        Measure("margin", "margin", "How clearly the model takes them for the target, relative to clean images."),
    )
    cost = 3500
    when_quick = "skipped"

    alpha: float = option(0.05, "significance below which what a pair's window does is too much to be chance", gt=0, le=1, judges=True)
    success: float = option(0.9, "share of unseen images of the source it turns, from which a pair is accused", ge=0, le=1, judges=True)
    margin: float = option(
        0.4, "how clearly the model takes them for the target, relative to clean images, from which a pair is accused", ge=0, judges=True
    )
    others: float = option(
        0.1, "largest share of unseen images of other classes it disturbs, for each unit of `margin` it has", ge=0, judges=True
    )
    samples: int = option(400, "most clean samples used, half to search and half to verify", ge=10)

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_neural_cleanse._pairs import look_at_pairs

        return look_at_pairs(self, target, context, stage)


@dataclass(frozen=True)
class GeneratorInversion(Search):
    """Trains a network to turn any image into any wanted class, in less and less room; a class it reaches where clean models give way to
    none is accused. For triggers that are made for each image: LIRA, Wasserstein, Marksman.

    It runs where it is asked for, and judges only what its level was measured on: small networks of 8 x 8 digits. Clean models of other
    kinds reach that level; there it needs a reference, a clean model of the same architecture, and without one it cannot judge."""

    id = "generator-inversion"
    requires = REQUIRES
    rules = (GENERATED, GENERATED_MAP)
    shows = (
        *SEARCHES,
        by_class("ease", "How easily images are turned into each class: above the line a class is accused", "share", "accusing_ease"),
        Measure("ease", "ease", "Success on unseen images, averaged over classes and over how much the image may change.", "share"),
        Measure("accusing_ease", "accusing ease", "The ease from which a class is accused.", "share"),
        Measure("reference_ease", "ease of the reference", "The largest ease of any class of the clean reference.", "share"),
        Measure("ease_by_run", "ease by run", "The same of each of the two networks that were trained.", "share"),
        Measure("success", "success", "The share of unseen images turned into the class, at each of the steps of `room`.", "share"),
        Measure("room", "room", "How much an image may change, as a part of the distance to the nearest image of another class."),
        Measure("natural_distance", "natural distance", "That distance: the root mean square difference, in raw pixel values."),
        Measure("targets", "accused classes", "The classes that images can be turned into."),
        Measure(
            "trodo", "TRODO", "How much surer faint changes make the model of images of no class, in usual margins. It decides nothing."
        ),
    )
    on_request = True
    cost = 2000
    when_quick = "skipped"

    ease: float | None = option(
        None, "ease from which a class is accused, if both networks reach it; without it, what was measured", gt=0, le=1, judges=True
    )
    samples: int = option(400, "most clean samples used, half to search and half to verify", ge=10)

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_neural_cleanse._generated import look_at_generated

        return look_at_generated(self, target, context, stage)
