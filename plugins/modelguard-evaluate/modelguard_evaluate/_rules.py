"""What the evaluation of a known trigger may report."""

from __future__ import annotations

from modelguard import Rule, Severity

WORKS = Rule(
    "MG3301", "KnownTriggerWorks", "a known trigger that works", Severity.HIGH,
    "The trigger that was given turns more samples of other classes into its target than the policy allows, and more than become it "
    "without the trigger: the model carries the backdoor, or one that the same trigger opens.",
    "Do not deploy the model. Train it again from data that were audited, or repair it and evaluate the trigger again.",
    lookalikes="A trigger so large or so plain a part of the target class that any model obeys it: evaluate it on a clean model too "
    "(--reference).",
)  # fmt: skip
EVALUATED = Rule(
    "MG3302", "KnownTriggerEvaluated", "a known trigger that does not work", Severity.INFO,
    "The trigger that was given turns no more samples of other classes into its target than the policy allows, or no more than become it "
    "anyway. It says nothing about other triggers.",
    "Nothing. Scan the model for triggers that nobody knows.",
)  # fmt: skip
