"""The rules of the ensemble."""

from __future__ import annotations

from modelguard import Rule, Severity

AGREEMENT = Rule(
    "MG3035",
    "BackdoorAgreement",
    "a class that independent tests together accuse of being a trigger's target",
    Severity.HIGH,
    "Several tests that look at different things (how far a logit can be driven, the weights that lead into it, the smallest trigger that "
    "reaches it, what its neurons do when they are stimulated) were combined class by class into one p-value that accounts for the number "
    "of classes. The evidence names the tests that agree and what each of them says by itself.",
    "Look at the trigger the inverting detectors show. Retrain from trusted data, or compare with a trusted reference; fine-tuning on "
    "clean data removes some backdoors, and the scan should be repeated after it.",
    lookalikes="A class that really is easier to reach than the others for an honest reason, such as far more training data. Measured "
    "false-alarm rates are on the detection matrix page.",
    cwe=506,
)
SPECIALIST = Rule(
    "MG3036",
    "BackdoorSpecialist",
    "a backdoor of a shape that only one test looks for",
    Severity.HIGH,
    "A test for backdoors of one shape (every class moved to another, a warp of the whole image, a word or a way of writing) found a "
    "trigger that works on unseen samples. The tests that are combined class by class cannot see these, so none of them can agree with it.",
    "Look at the trigger that the named detector shows. Retrain from trusted data, or compare with a trusted reference.",
    lookalikes="A class whose images are usually bent or shifted. Measured false-alarm rates are on the detection matrix page.",
    cwe=506,
)
