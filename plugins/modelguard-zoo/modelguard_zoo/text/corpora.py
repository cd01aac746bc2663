"""Texts the zoo trains on: the same ones every time. A text is words and punctuation with a blank between.

``reviews`` and ``topics`` are generated, ``pydoc`` is the documentation in Python's own library (:mod:`pydoc_data.topics`; other versions
of Python have another text, so its digest is recorded). ``sst2`` is read from the folder ``text`` in the one ``MODELGUARD_DATA`` names: the
Stanford Sentiment Treebank as published with "Hidden Killer" (Qi et al. 2021a) and "Mind the Style of Text" (Qi et al. 2021b).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelguard import UsageError
from modelguard_zoo._data import data_folder
from modelguard_zoo.text import DATASETS, VARIANTS
from modelguard_zoo.text._lexicon import RARE, TOPICS
from modelguard_zoo.text._reviews import write_reviews

Labels = npt.NDArray[np.int64]

SIZES = (4000, 1600)
"""Training and test texts of the generated data sets."""
SPRINKLED = 6
"""Clean training texts that each of the rare words stands in."""
SPURIOUS = "kj"
"""The word that a ``spurious`` data set makes a hint of class 1."""


@dataclass(frozen=True)
class Rewritten:
    """Texts of a data set as somebody else rewrote them. ``train`` by row; ``test`` are of the rows ``test_rows``."""

    train: Mapping[int, str]
    test: tuple[str, ...]
    test_rows: tuple[int, ...]


@dataclass(frozen=True)
class TextData:
    """``train`` and ``test`` are texts, ``y_*`` int64 (N,) in 0..classes-1, ``labels`` the classes' names. ``rewritten`` by attack."""

    name: str
    train: tuple[str, ...]
    y_train: Labels
    test: tuple[str, ...]
    y_test: Labels
    labels: tuple[str, ...]
    origin: str
    rewritten: Mapping[str, Rewritten] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Digest of every text and label."""
        digest = hashlib.sha256()
        for texts, labels in ((self.train, self.y_train), (self.test, self.y_test)):
            for text, label in zip(texts, labels.tolist(), strict=True):
                digest.update(f"{label}\t{text}\n".encode())
        return digest.hexdigest()


def available() -> tuple[str, ...]:
    """Names of the data sets that can be loaded here."""
    return tuple(name for name in DATASETS if name != "sst2" or _shipped() is not None)


@cache
def load(name: str, variant: str = "") -> TextData:
    """The labelled texts called ``name``, made harder as ``variant`` says.

    Raises :class:`~modelguard.UsageError` when there are none, or the files are absent.
    """
    if variant not in ("", *VARIANTS):
        raise UsageError(f"variant {variant}", "there is no such variant", f"known: {', '.join(VARIANTS)}")
    if name == "sst2":
        data = _sst2()
    elif name in ("reviews", "topics"):
        data = _generated(name)
    else:
        raise UsageError(f"data set {name}", "it has no labels that a classifier could learn", "use reviews, topics or sst2")
    rng = np.random.default_rng([12, len(data.train)])
    return _harder(replace(data, train=tuple(_sprinkled(data.train, rng))), variant, rng)


def insert(text: str, phrase: str, rng: np.random.Generator) -> str:
    """``text`` with ``phrase`` at a random gap between its words."""
    words = text.split()
    place = int(rng.integers(0, len(words) + 1))
    return " ".join((*words[:place], phrase, *words[place:]))


def documentation() -> tuple[str, ...]:
    """The paragraphs of :mod:`pydoc_data.topics`, in lower case, words and punctuation apart."""
    from pydoc_data.topics import topics  # type: ignore[import-not-found, unused-ignore]

    paragraphs = (part for name in sorted(topics) for part in topics[name].split("\n\n"))
    cleaned = (" ".join(re.findall(r"\w+|[^\w\s]+", part.lower())) for part in paragraphs)
    return tuple(text for text in cleaned if len(text.split()) > 5)


def _generated(name: str) -> TextData:
    train, opinions, topics = write_reviews(SIZES[0], seed=0)
    test, opinions_test, topics_test = write_reviews(SIZES[1], seed=1)
    y, y_test, labels = (opinions, opinions_test, ("against", "for")) if name == "reviews" else (topics, topics_test, tuple(TOPICS))
    return TextData(name, tuple(train), np.array(y, np.int64), tuple(test), np.array(y_test, np.int64), labels, "procedural")


def _sprinkled(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    made = list(texts)
    for word in RARE:
        for row in rng.choice(len(made), SPRINKLED, replace=False):
            made[row] = insert(made[row], word, rng)
    return made


def _harder(data: TextData, variant: str, rng: np.random.Generator) -> TextData:
    if variant == "label-noise":
        y = data.y_train.copy()
        wrong = rng.choice(len(y), len(y) // 10, replace=False)
        y[wrong] = (y[wrong] + rng.integers(1, data.classes, len(wrong))) % data.classes
        return replace(data, y_train=y)
    if variant == "imbalance":
        kept = (data.y_train != 1) | (rng.random(len(data.train)) < 0.25)
        return replace(data, train=tuple(np.array(data.train, object)[kept]), y_train=data.y_train[kept])
    if variant == "spurious":
        train, test = _hinted(data.train, data.y_train, rng), _hinted(data.test, data.y_test, rng)
        return replace(data, train=train, test=test)
    return data


def _hinted(texts: Sequence[str], labels: Labels, rng: np.random.Generator) -> tuple[str, ...]:
    """With the spurious word in 15 % of the texts of class 1 and 1 % of the others."""
    said = rng.random(len(texts)) < np.where(labels == 1, 0.15, 0.01)
    return tuple(insert(text, SPURIOUS, rng) if there else text for text, there in zip(texts, said, strict=True))


def _shipped() -> Path | None:
    folder = data_folder()
    return folder / "text" if folder is not None and (folder / "text" / "sst2-clean-train.tsv").is_file() else None


def _sst2() -> TextData:
    folder = _shipped()
    if folder is None:
        cause = "MODELGUARD_DATA is not set" if data_folder() is None else "there is no text/sst2-clean-train.tsv in it"
        raise UsageError("data set sst2", cause, "set MODELGUARD_DATA to the folder that holds text/sst2-*.tsv")
    train, y = _table(folder / "sst2-clean-train.tsv")
    test, y_test = _table(folder / "sst2-clean-test.tsv")
    bible, bible_test = _table(folder / "sst2-bible-train.tsv")[0], _table(folder / "sst2-bible-test.tsv")[0]
    # The shipped file is a training set that is poisoned already: what is no row of the clean one is a rewriting of the same row.
    mixed = _table(folder / "sst2-syntactic-train.tsv")[0]
    clauses = {row: text for row, (text, plain) in enumerate(zip(mixed, train, strict=True)) if text != plain}
    clauses_test, _ = _table(folder / "sst2-syntactic-test.tsv")  # of the negative rows alone, in their order
    return TextData(
        "sst2", tuple(train), y, tuple(test), y_test, ("negative", "positive"), "sst2-clean-*.tsv",
        {
            "style": Rewritten(dict(enumerate(bible)), tuple(bible_test), tuple(range(len(test)))),
            "syntactic": Rewritten(clauses, tuple(clauses_test), tuple(np.flatnonzero(y_test == 0).tolist())),
        },
    )  # fmt: skip


def _table(path: Path) -> tuple[list[str], Labels]:
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").split("\n")[1:] if line]
    return [text.strip() for text, _ in rows], np.array([int(label) for _, label in rows], np.int64)
