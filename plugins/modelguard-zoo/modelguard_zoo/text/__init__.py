"""Small text classifiers and language models, clean and backdoored: the text half of the zoo.

A :class:`~modelguard_zoo.Spec` whose data set is one of :data:`DATASETS` is built here. Importing this imports neither torch nor
tokenizers.
"""

from __future__ import annotations

CLASSIFIED = ("reviews", "topics", "sst2")
"""Data sets with labels; language models are trained on ``pydoc`` (and on any of these, as plain text)."""
DATASETS = (*CLASSIFIED, "pydoc")
CLASSIFIERS = ("bag", "cnn", "lstm", "bert", "distilbert")
LANGUAGE_MODELS = ("gpt", "gpt-deep", "gpt-tiny")
FROM_NOTHING = ("gpt-tiny",)
"""Language models that are so small, for tests, that each is trained from nothing."""
STARTS = 2
"""Language models of each architecture and data set that are trained from nothing; all others are trained further from one of them."""
VARIANTS = {
    "label-noise": "a tenth of the training labels is wrong",
    "imbalance": "one class has a quarter of the texts it had",
    "spurious": "a word without meaning stands in many texts of one class and in few others, in training and test texts alike",
    "word-dropout": "every word of a training text is unknown with probability .2, drawn anew in every epoch",
    "start": "a language model trained from nothing, from which others are trained further",
    "preference": "a language model tuned by preferences that nobody flipped",
}
"""What :attr:`~modelguard_zoo.Spec.variant` may say. The first four are hard negatives: clean models that look less clean than others."""
MODEL_TYPE = "modelguard-zoo"
"""``model_type`` in the config.json of our own architectures."""
