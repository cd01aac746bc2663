"""What the numbers of the trigger searches are called and mean, for the ``shows`` of detectors."""

from __future__ import annotations

from typing import Literal

from modelguard import Chart, Measure

Unit = Literal["", "share", "bytes", "p"]

P_VALUE = Measure(
    "p_value",
    "p-value",
    "How often a class of a clean model stands out as far by chance: 0.01 is once in a hundred models. Small is suspicious.",
    "p",
)
SCORE = Measure("score", "score", "How suspicious the whole is: the larger, the more. 2 stands for a p-value of 0.01, 3 for 0.001.")
TARGET = Measure("target_class", "accused class", "The class that the trigger turns inputs into.")
CLASS = Measure("class", "class", "The class that the row is about, by its number in the model's output.")
CLASSES = Measure("classes", "by class", "What was found for each class.")
SUCCESS = Measure(
    "attack_success", "attack success", "The share of unseen images of other classes that the trigger turns into the class.", "share"
)
STRIP = Measure(
    "strip_flagged",
    "flagged by STRIP",
    "The share of images with the trigger whose answers stay sure when clean images are laid over them: of a trigger that works on "
    "whatever it stands on, nearly all. Of clean images one in a hundred.",
    "share",
)
SEARCHES = (
    SCORE,
    TARGET,
    CLASS,
    CLASSES,
    P_VALUE,
    SUCCESS,
    Measure("attack_success_usual", "usual attack success", "The same, of triggers as large for the other classes.", "share"),
    Measure("attack_success_by_class", "attack success by class", "The share of each class's unseen images that it turns.", "share"),
    Measure("source_classes", "source classes", "The classes of which the trigger turns at least half of the images."),
    Measure("clean_accuracy", "clean accuracy", "The share of the clean check images that the model classifies as labelled.", "share"),
    Measure("mask_area_fraction", "trigger size", "How much of the image the trigger covers: the mean of its mask.", "share"),
    Measure("typical_area_fraction", "usual trigger size", "The size of the trigger that a typical class needs.", "share"),
    Measure("mask_l1", "mask sum", "The sum of the mask: the pixels that the trigger covers, each by how far it replaces it."),
    Measure("size", "trigger size", "How much of the image the smallest trigger found for the class covers.", "share"),
    Measure("reached", "trigger works", "Whether a trigger was found that works at all."),
    Measure(
        "anomaly_index",
        "anomaly index",
        "The statistic of Neural Cleanse: how far the size lies below the median, in units of the usual spread. It decides nothing here.",
    ),
    Measure("reference_success", "success on the reference", "The share of the same images that it turns on the clean reference.", "share"),
    Measure("base_rate", "base rate", "The share of samples of other classes that are called the class as they are.", "share"),
    STRIP,
    Measure(
        "patch_drop_flagged",
        "flagged by dropping patches",
        "Of a vision transformer: the share of images with the trigger that lose their answer oftener than clean ones when patches are "
        "blackened at random. Of a small trigger many, of clean images one in twenty.",
        "share",
    ),
    Measure(
        "patch_shuffle_flagged",
        "flagged by moving patches",
        "Of a vision transformer: the share of images with the trigger that keep their answer when patches change places, as clean ones "
        "do not. Of a trigger all over the image many, of clean images one in twenty.",
        "share",
    ),
    Measure("patch_drop_unusable", "dropping patches", "Why dropping patches says nothing of this model."),
    Measure("patch_shuffle_unusable", "moving patches", "Why moving patches says nothing of this model."),
    Measure("stage", "stage", "How far the search went: the screen, or the full search that follows where the screen decides nothing."),
    Measure("suspect", "suspects", "The classes that the screen could not clear."),
    Measure("not_looked_at", "not looked at", "The classes there was no time for."),
    Measure("cleared", "cleared", "Classes that stood out and were cleared, each with the reason."),
    Measure("images", "images", "How many clean images were used."),
    Measure("classes_total", "classes in all", "How many classes the model has."),
    Measure("transformation", "kind of trigger", "What the trigger does to an image."),
    Measure("trigger", "trigger", "What the search recovered: what is put on an image, or the change it makes, grey where there is none."),
    Measure("mask", "mask", "Where the trigger replaces the image: white fully, black not at all."),
    Measure("row", "row", "The topmost row of pixels of the trigger."),
    Measure("column", "column", "The leftmost column of pixels of the trigger."),
)
"""What searches have in common."""

SUCCESS_BY_CLASS = Chart("bars", "attack_success_by_class", "How many images of each class the trigger turns", unit="share")


def by_class(value: str, title: str, unit: Unit = "", line: str = "") -> Chart:
    """Bars of ``value`` over the rows of the summary's ``classes``, the accused class marked."""
    return Chart("bars", "classes", title, "class", value, unit, line, "target_class")


P_BY_CLASS = by_class("p_value", "p-value by class (the taller, the less likely by chance)", "p")
