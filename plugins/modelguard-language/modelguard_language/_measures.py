"""What the numbers of the text detectors are called and mean."""

from __future__ import annotations

from modelguard_triggers.measures import CLASS, CLASSES, P_VALUE, SCORE, TARGET

from modelguard import Chart, Measure

FLIPS = Measure(
    "attack_success",
    "attack success",
    "The share of unseen texts of other classes that become the class when the phrase is put in.",
    "share",
)
PUSH = Measure(
    "push",
    "push",
    "How clearly the model takes such texts for the class, on the average, in units of how clearly it takes clean texts for theirs: "
    "from -1, untouched, over 0, undecided, to 1 and beyond.",
)
COMMON = (
    SCORE,
    P_VALUE,
    TARGET,
    CLASS,
    CLASSES,
    FLIPS,
    PUSH,
    Measure("texts", "texts", "How many clean texts were used, half to search and half to check."),
    Measure("clean_accuracy", "clean accuracy", "The share of the samples that the model classifies as labelled.", "share"),
    Measure("suspect", "suspects", "The classes that could not be cleared."),
    Measure("not_looked_at", "not looked at", "The classes there was no time for."),
    Measure("stage", "stage", "How far the search went: the screen, or all of it."),
)
PHRASES = (
    *COMMON,
    Measure("phrase", "phrase", "What is put into a text."),
    Measure("tokens", "tokens", "The same as the numbers of its tokens."),
    Measure("length", "length", "How many tokens the phrase has."),
    Measure("shortest", "shortest phrase", "How many tokens it takes to turn 95 % of the texts; nothing where no phrase found does."),
    Measure("excess", "excess", "How far the phrase pushes beyond what the tail of the vocabulary explains, in units of the tail's slope."),
    Measure("excesses", "excesses", "The same of the best few phrases of that length."),
    Measure("expected", "expected push", "The push of the best phrase, as the tail of the others foretells it."),
    Measure("usual_success", "usual attack success", "The attack success of the ninth best phrase of that length.", "share"),
    Measure(
        "evidence", "evidence", "What the samples say of each token for the class: log odds in units of their error; 2 is plain evidence."
    ),
    Measure("by_place", "by place", "The attack success with the phrase at the start, in the middle and at the end.", "share"),
    Measure("sentence", "in a sentence", "An unseen text with the phrase in it, which the model takes for the class."),
    Measure("best", "best tokens", "The tokens that push furthest towards the class, each by itself."),
    Measure("phrases", "phrases", "The best phrase of each length."),
    Measure("tried", "tokens tried", "How many tokens of the vocabulary were put into texts."),
    Measure("vocabulary", "vocabulary", "How many tokens the model has."),
    Measure("searched_in_full", "searched in full", "The classes whose phrases were searched; the others were cleared by their tokens."),
    Chart("words", "phrase_words", "The phrase"),
    Chart("bars", "best", "How far the best single tokens push", "token", "push", "", "expected", "phrase_words"),
)
PROBES = (
    *COMMON,
    Measure("probe", "rewriting", "How the texts were rewritten."),
    Measure("plain", "plain push", "The push of the median plain addition of the same length."),
    Measure("gain", "gain", "The push of the median rewriting of the kind less that of the median plain one."),
    Measure("probes", "by rewriting", "What each way of rewriting does."),
    Measure("sentence", "in a sentence", "An unseen text, rewritten, which the model takes for the class."),
    Measure("clause", "clauses", "Subordinate clauses put in front of texts."),
    Measure("style", "old forms", "Texts rewritten in the forms of the King James Bible."),
    Chart("bars", "probes", "How far each rewriting pushes", "probe", "push", "", "plain", "probe"),
)
SOFT = (
    *COMMON,
    Measure("loss", "loss", "The cross entropy of the class under its best soft phrase: small is easily reached."),
    Measure("lead", "lead", "By how much more surely the class is reached than the others, by its losses and by its margins."),
    Measure("phrase", "heaviest tokens", "The heaviest token of each place of the soft phrase."),
    Measure(
        "hard_success", "success of the tokens", "The attack success when the heaviest tokens are put in, instead of mixtures.", "share"
    ),
    Chart("bars", "classes", "How much more surely each class is reached than the others", "class", "lead", "", "", "target_class"),
)
ROWS = (
    SCORE,
    P_VALUE,
    TARGET,
    CLASS,
    CLASSES,
    FLIPS,
    Measure("token", "token", "The token whose row is most like the searched one."),
    Measure("cosine", "cosine", "Of the angle between its row and the row that best turns texts into the class; 1 is the same direction."),
    Measure("next_cosine", "next cosine", "The same of the token that comes next."),
    Measure("excess", "excess", "How far it lies beyond what the rest of the vocabulary foretells, in units of the tail's slope."),
    Measure("times", "times in a text", "How often the token stands in a text that it turns."),
    Measure("sentence", "in a sentence", "An unseen text with the token in it, which the model takes for the class."),
    Measure("rows", "rows", "The rows that are most like the searched one."),
    Measure("searched_in_full", "searched in full", "The classes whose row was searched; the others were cleared along their gradient."),
    Chart("bars", "rows", "How like the searched row rows of the table are", "token", "cosine", "", "", "token"),
)
