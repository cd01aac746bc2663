"""The rules an audit reports under. A finding names the samples, by their place in the data set."""

from __future__ import annotations

from modelguard import Rule, Severity

SPECTRAL_PART = Rule(
    "MG4001",
    "SpectralSignature",
    "samples of one class that the model tells apart by a feature of their own",
    Severity.HIGH,
    "In the model's last features, the samples under one label fall into two parts that one direction separates far better than any "
    "direction separates samples of one kind, and one part shows samples of other classes, or lies further from the other than natural "
    "kinds do. A model trained on samples with a trigger learns the trigger as such a direction, because it alone says which label they "
    "were given. The indices are those of that part.",
    "Look at the samples named. If they carry a common mark, or show another class than their label says, drop them (--drop writes the "
    "indices), train again and audit again.",
    lookalikes="Many samples of several classes that were labelled wrongly in the same way, and a class collected from two very different "
    "sources.",
    cwe=506,
)
TWO_KINDS = Rule(
    "MG4007",
    "TwoKinds",
    "a class of two kinds that the model tells apart",
    Severity.LOW,
    "The samples under one label fall into two parts as for MG4001, but neither shows samples of other classes, and they are no further "
    "apart than natural kinds are: ones with and without a foot are, and so is a trigger on samples of the class itself (clean label), or "
    "of one other class.",
    "Look at the samples named, and at the others of the class. A common mark on one part is a reason to drop it.",
    lookalikes="Two natural kinds, which is what most of these are.",
    cwe=506,
)
CLUSTERED_PART = Rule(
    "MG4002",
    "ActivationCluster",
    "a class whose activations form two clusters",
    Severity.LOW,
    "The activations of one class, reduced to ten dimensions, form two clusters that are apart more clearly than clusters of normally "
    "distributed activations with the same spread would be. This is the published test with an error rate put to it; it is blind to "
    "small parts, and natural kinds within a class pass it too, so that it is a hint.",
    "Read it beside MG4001: the same samples named by both are strong evidence.",
    lookalikes="Natural kinds within a class.",
    cwe=506,
)
LEARNED_FIRST = Rule(
    "MG4003",
    "LearnedFirst",
    "samples of one class that a fresh probe learns before the others",
    Severity.LOW,
    "A small network trained on the data set for a few steps has a much lower loss on some samples of one class than on its others. A "
    "trigger is the easiest thing in the data to learn, so that samples with one are learned first.",
    "Read it beside MG4001. Look at the samples named for a mark that all of them carry.",
    lookalikes="The plainest samples of a class whose others are hard.",
    cwe=506,
)
HARMFUL = Rule(
    "MG4004",
    "NegativeImpact",
    "samples that make a classifier worse at samples like them",
    Severity.LOW,
    "A linear classifier over the inputs or the model's features errs more on held-out samples with these samples in its training set than "
    "without them, by far more than because of other samples. Extreme samples with wrong labels do that; a wrong label among many does "
    "too little harm to be named.",
    "Check the labels of the samples named.",
    lookalikes="Hard samples at the border of two classes.",
)
CONTRADICTION = Rule(
    "MG4005",
    "LabelContradiction",
    "the same sample under different labels",
    Severity.MEDIUM,
    "Samples that are equal, or all but equal, are given different labels. At most one of them can be right. A patch so small that it "
    "hardly changes a sample, put on copies of samples that are in the set as well, shows like this.",
    "Find out which label is right, and drop the others.",
    lookalikes="Samples with no content (blank images), and text that is ambiguous.",
)
DUPLICATES = Rule(
    "MG4006",
    "DuplicateSamples",
    "the same sample many times",
    Severity.INFO,
    "Samples that are equal, or all but equal, are in the set more than once under one label. It gives them more weight than others, and "
    "where one copy is in the training set and one in the test set the accuracy measured is too good.",
    "Keep one of each.",
    lookalikes="Text so short that people write the same, and augmented data.",
)
