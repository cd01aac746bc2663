"""The rules of this distribution, MG3001 to MG3008."""

from __future__ import annotations

from modelguard import Rule, Severity

_REMEDY = (
    "Do not deploy. Look at the attached trigger, ask the supplier how the model was trained, and retrain from trusted data; "
    "fine-tuning alone seldom removes a backdoor."
)
_REFERENCE = "; with a clean reference model such a trigger transfers to it and is not reported."
_ALONE = (
    " By itself this search accuses some clean models (docs/detection-matrix.md); backdoor-ensemble says what it and the other "
    "detectors amount to together."
)


def _rule(number: str, name: str, title: str, description: str, lookalikes: str, severity: Severity = Severity.HIGH) -> Rule:
    return Rule(number, name, title, severity, description, _REMEDY, lookalikes + _REFERENCE)


PATCH = _rule(
    "MG3001",
    "BackdoorPatchTrigger",
    "a small patch that turns any image into one class",
    "One class can be reached from all others by a patch far smaller than any other class needs.",
    "A class defined by one small feature (a stop sign's bar) can have a naturally small trigger",
)
SOURCE = _rule(
    "MG3002",
    "BackdoorSourceSpecificTrigger",
    "a small patch that turns one class into another",
    "One small window turns one class into another and leaves all other classes as they are, more so than the two classes and the way back"
    " explain." + _ALONE,
    "Two classes that differ by one mark, such as a stroke or a bar",
    Severity.MEDIUM,
)
MAP = _rule(
    "MG3003",
    "BackdoorLabelMapTrigger",
    "a small patch that permutes all classes",
    "A single patch moves every class to a different other class, which no natural feature does (all-to-all backdoor).",
    "Classes in an order in which each resembles the next, such as the positions of a dial",
)
BLEND = _rule(
    "MG3004",
    "BackdoorBlendTrigger",
    "a faint full-size pattern that turns any image into one class",
    "One class can be reached from all others by blending in a pattern far fainter than any other class needs." + _ALONE,
    "A class that is recognised by its background, brightness or texture, which a faint pattern imitates",
    Severity.MEDIUM,
)
WARP = _rule(
    "MG3005",
    "BackdoorWarpTrigger",
    "a slight warp that turns any image into one class",
    "One class can be reached from all others by a smooth displacement so slight that it reaches hardly any other class.",
    "A class that is recognised by a bend, a slant or a position, which a slight warp imitates, in small images above all",
)
COLOUR = _rule(
    "MG3006",
    "BackdoorColourTrigger",
    "a slight colour change that turns any image into one class",
    "One class can be reached from all others by a colour change far slighter than any other class needs." + _ALONE,
    "A class that is recognised by its colour, or by colours shifted in the camera",
    Severity.MEDIUM,
)
GENERATED = _rule(
    "MG3007",
    "BackdoorGeneratedTrigger",
    "faint changes made for each image turn all classes into one",
    "A network that sees the image turns images of all classes into this one by changes far fainter than any class of a clean model needs. "
    "The trigger of an input-aware or generator-made backdoor is no fixed pattern: another network finds what its own was trained to make.",
    "A model that faint changes upset by nature: photographs, attention networks, few or wrong labels. Clean models of CIFAR-10 and clean "
    "vision transformers are accused; compare with a clean model of the same kind (--reference)",
    Severity.MEDIUM,
)
GENERATED_MAP = _rule(
    "MG3008",
    "BackdoorGeneratedLabelMap",
    "faint changes made for each image turn it into whatever class is wanted",
    "A network that sees the image and is told a class turns images into most classes by changes far fainter than clean models need: "
    "the attacker chooses the class of every image.",
    "A model that faint changes upset as a whole by nature: photographs, attention networks, few or wrong labels. Clean models of CIFAR-10 "
    "and clean vision transformers are accused; compare with a clean model of the same kind (--reference)",
    Severity.MEDIUM,
)
