"""The rules the companions report under. All but one accuse a class of being a trigger's target."""

from __future__ import annotations

from modelguard import Rule, Severity

MARGIN_OUTLIER = Rule(
    "MG3031",
    "MaximumMarginOutlier",
    "a class whose logit can be driven unusually far above the others",
    Severity.MEDIUM,
    "Over the whole input domain, one class's logit can be raised above every other by a margin that stands out from what the other "
    "classes allow. A backdoor makes its target class so, whatever the trigger looks like: the model was trained to answer with the "
    "target against everything else in the image. The test needs no sample and no trigger; its p-value accounts for the number of "
    "classes. By itself it accuses some clean models; backdoor-ensemble says what it and the other detectors amount to together.",
    "Scan with clean samples so that trigger inversion (neural-cleanse, abs) can show the trigger, or compare with a trusted reference. "
    "If neither is possible, do not deploy where inputs can be chosen by others.",
    lookalikes="A class with far more training data or far stronger features than the others (a single bright colour, a digit drawn "
    "with one stroke), a class added later by fine-tuning, and heavy class weighting. Measured false-alarm rates are on the detection "
    "matrix page.",
    cwe=506,
)
FINAL_LAYER_OUTLIER = Rule(
    "MG3032",
    "FinalLayerOutlier",
    "a class whose final-layer weights stand out",
    Severity.LOW,
    "The weights that lead into one class's logit, relative to the other classes', sum to far more than the others' do. Training a "
    "trigger into a class raises nearly all of them, since every feature has to be outvoted. This is a ranking hint computed in "
    "milliseconds without data: it often names the right class of a backdoored model, and by itself decides nothing.",
    "Read it beside the other detectors: the same class named by trigger inversion or by the maximum-margin statistic is strong evidence.",
    lookalikes="Imbalanced training data, and final layers that are fed features of both signs (transformers), where sums mean little.",
    cwe=506,
)
LIPSCHITZ_OUTLIER = Rule(
    "MG3033",
    "ChannelLipschitzOutlier",
    "a channel that can amplify its input far more than its layer's others",
    Severity.LOW,
    "The upper bound of one convolution channel's Lipschitz constant lies far above those of its layer. Channels that respond to a "
    "trigger tend to; pruning such channels is a published mitigation. Clean networks have them too: in the project's own trials the "
    "statistic did not separate backdoored from clean models.",
    "Do not act on it alone. Where another detector accuses a class, such channels are the ones to look at or prune first.",
    lookalikes="Ordinary training: the first layers of small networks, and channels with a small running variance.",
)
SALIENCY_OUTLIER = Rule(
    "MG3034",
    "SaliencyOutlier",
    "a class whose explanation looks like a trigger on clean images",
    Severity.LOW,
    "The heat map that explains one class is smaller, smoother and steadier from image to image than the other classes' are. The "
    "map of a backdoor's target keeps pointing at the place where the trigger would be, even where there is none.",
    "Read it beside the other detectors; invert the trigger of the named class.",
    lookalikes="A class known by one fixed place (the foot of a digit, the centre of a sign), and watermarks all training images share.",
    cwe=506,
)
