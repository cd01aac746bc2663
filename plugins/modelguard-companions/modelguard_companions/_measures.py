"""What the numbers of the companions are called and mean."""

from __future__ import annotations

from modelguard_triggers.measures import CLASS, CLASSES, P_BY_CLASS, P_VALUE, SEARCHES, TARGET, by_class

from modelguard import Chart, Measure

_DEVIATE = Measure("t", "deviate", "How many standard deviations the class lies from the others.")
_SCORE = Measure("score", "score", "The deviate of the class that stands out most: the larger, the more suspicious.")
_PLAIN = tuple(item for item in SEARCHES if item.key != "score")

MARGIN: tuple[Measure | Chart, ...] = (
    *_PLAIN,
    _SCORE,
    _DEVIATE,
    by_class("margin", "How far each class can be driven above the others (logits)"),
    Measure("margin", "margin", "How far inputs can drive the class's logit above the best of the others."),
    Measure("median_margin", "usual margin", "The same for the median class."),
)
FINAL_LAYER: tuple[Measure | Chart, ...] = (
    *_PLAIN,
    _SCORE,
    _DEVIATE,
    by_class("sum", "Sum of each class's final weights, the common part taken off"),
    Measure("sum", "weight sum", "The sum of the class's weights in the final layer, after the part common to all classes is taken off."),
    Measure("norm", "weight norm", "The length of the class's weights in the final layer."),
    Measure("layer", "layer", "The layer that the final weights take their features from."),
    Measure("features", "features", "How many features the final layer takes."),
)
SALIENCY: tuple[Measure | Chart, ...] = (
    _SCORE,
    TARGET,
    CLASS,
    CLASSES,
    P_VALUE,
    _DEVIATE,
    P_BY_CLASS,
    Measure("spread", "spread", "How much of the image explains the class."),
    Measure("roughness", "roughness", "How rough the explanation is: a trigger's is smooth."),
    Measure("agreement", "agreement", "How alike the explanations are on different images: a trigger's are steady."),
    Measure("images", "images", "How many clean images were used."),
)
LIPSCHITZ: tuple[Measure | Chart, ...] = (
    Measure("score", "score", "The deviations of the channel that stands out most."),
    Chart("bars", "layers", "How far the strongest channel of each layer lies above its others (standard deviations)", "tensor", "z"),
    Measure("z", "deviations", "How many standard deviations the channel lies above the others of its layer."),
    Measure("bound", "bound", "By how much the channel can amplify its input at most."),
    Measure("channel", "channel", "The channel, by its number."),
    Measure("outliers", "outliers", "How many channels lie more than three standard deviations above."),
    Measure("tensor", "kernel", "The convolution's kernel."),
    Measure("norm", "batch norm", "The batch norm that takes its output."),
    Measure("unpaired", "left out", "Kernels of which it is not known which batch norm follows them."),
)
