"""The rules of ABS. Both accuse a class of being a trigger's target."""

from __future__ import annotations

from modelguard import Rule, Severity

_REMEDY = (
    "Look at the recovered trigger. Do not deploy the model; retrain it from trusted data, or compare it with a trusted reference. "
    "Fine-tuning on clean data removes some backdoors; scan again after it."
)

PATCH = Rule(
    "MG3021",
    "NeuronTriggerPatch",
    "a class that a small patch or window turns other classes into",
    Severity.HIGH,
    "Units of the network that, stimulated, decide for one class whatever is in the image were traced back to the input: a patch of "
    "fixed area that fires them turns unseen images of other classes into this class, and does so far better than patches of the same "
    "area do for the other classes. Or the best fixed window, a square of an eighth of the image's side that was searched for at every "
    "place, does.",
    _REMEDY,
    lookalikes="A class that is recognised by one small mark, such as a stroke or a colour, which others lack.",
    cwe=506,
)
FILTER = Rule(
    "MG3022",
    "NeuronTriggerFilter",
    "a class that a slight filter over the whole image turns other classes into",
    Severity.MEDIUM,
    "As for a patch, but what fires the units is a filter: a linear map of each pixel and of the largest, smallest and average value "
    "around it, held to a small mean change of the image. Style, colour and blending triggers look like this.",
    _REMEDY,
    lookalikes="A class told by brightness, colour or sharpness alone (a clean network for traffic signs says priority road when "
    "everything turns yellow), and models that answer with one class on anything unusual. Therefore it warns and does not block.",
    cwe=506,
)
