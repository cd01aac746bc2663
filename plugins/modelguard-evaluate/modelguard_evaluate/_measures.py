"""What the numbers of the evaluation are called and mean."""

from __future__ import annotations

from modelguard_triggers.measures import STRIP, SUCCESS_BY_CLASS, TARGET

from modelguard import Chart, Measure

_SURE = "The same within a 95 % confidence interval (Wilson)."
SHOWS = (
    TARGET,
    Measure("score", "score", "The attack success less the base rate."),
    Measure("trigger_kind", "kind of trigger", "A picture, a phrase or a function."),
    Measure("trigger", "trigger", "What is stamped, alone; grey where a change is none."),
    Measure("trigger_sha256", "digest of the trigger", "SHA-256 of the file the trigger was read from."),
    Measure("mask_sha256", "digest of the mask", "SHA-256 of the file the mask was read from."),
    Measure("mask", "mask", "Where the trigger replaces the image: white fully, black not at all."),
    Measure("target_told_by", "target told by", "Who said which class the trigger is for."),
    Measure("clean_accuracy", "clean accuracy", "The share of clean samples that the model classifies as labelled.", "share"),
    Measure("clean_accuracy_interval", "clean accuracy, interval", _SURE, "share"),
    Measure(
        "attack_success",
        "attack success",
        "The share of samples of other classes that the trigger turns into the target.",
        "share",
    ),
    Measure("attack_success_interval", "attack success, interval", _SURE, "share"),
    Measure("base_rate", "base rate", "The share of the same samples that are called the target without the trigger.", "share"),
    Measure("base_rate_interval", "base rate, interval", _SURE, "share"),
    Measure("attack_success_by_class", "attack success by class", "The share of each class's samples that the trigger turns.", "share"),
    Measure("samples", "samples", "How many samples of other classes the trigger was measured on."),
    Measure("places", "by place", "Attack success with the trigger at other places, on a few of the samples."),
    Measure("place", "place", "Where the trigger stands: its upper left corner, or where in the text."),
    Measure("strengths", "by strength", "Attack success of images part of the way from clean to stamped, on a few of the samples."),
    Measure("strength", "strength", "How far the image goes from clean to stamped."),
    STRIP,
    Measure("strip_flagged_interval", "flagged by STRIP, interval", _SURE, "share"),
    Measure("reference_success", "success on the reference", "The attack success on the trusted model.", "share"),
    Measure("reference_success_interval", "success on the reference, interval", _SURE, "share"),
    Measure("reference_base_rate", "base rate of the reference", "The base rate of the trusted model.", "share"),
    Measure("reference_base_rate_interval", "base rate of the reference, interval", _SURE, "share"),
    Measure("reference_accuracy", "accuracy of the reference", "The clean accuracy of the trusted model.", "share"),
    Measure("reference_accuracy_interval", "accuracy of the reference, interval", _SURE, "share"),
    SUCCESS_BY_CLASS,
    Chart("bars", "places", "Attack success by place", "place", "attack_success", "share"),
    Chart("bars", "strengths", "Attack success by strength", "strength", "attack_success", "share"),
)
