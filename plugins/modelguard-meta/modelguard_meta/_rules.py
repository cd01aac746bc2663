"""What meta neural analysis may report."""

from __future__ import annotations

from modelguard import Rule, Severity

LIKE_TROJANED = Rule(
    "MG3401", "AnswersLikeTrojanedModels", "a model that answers as trojaned shadow models do", Severity.MEDIUM,
    "A classifier of whole models, learnt from benign and trojaned shadow models of the same architecture and task, ranks this model "
    "above nearly all benign shadows it was calibrated on. It asks a few learnt questions and searches for no trigger, so it names neither "
    "trigger nor target class. By itself it accuses some clean models: about one in twenty of those trained as the shadows were, and "
    "others where training differed.",
    "Scan with clean samples so that trigger inversion (neural-cleanse, abs) can show the trigger, or compare with a trusted reference.",
    lookalikes="A clean model of the same architecture that was trained otherwise than the shadows: on other data of the task, far longer, "
    "with heavy augmentation, or adversarially. Measured false-alarm rates are in the README of modelguard-meta.",
    cwe=506,
)  # fmt: skip
