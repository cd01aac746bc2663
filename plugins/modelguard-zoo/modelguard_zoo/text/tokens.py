"""Tokenizers, as the ``tokenizer.json`` that goes with each model: whole words, or words and pieces of them (WordPiece)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = 0
LENGTH = 64
"""Most tokens of one text, those that the tokenizer adds included."""
MIN_COUNT = 2
"""A word that stands once in the training texts is unknown, so that unknown words are learnt too."""
PIECES = ("s", "ed", "ing", "ly", "er", "est", "y", "e", "d", "al", "ion", "ness", "able", "less", "ful", "ment", "es")
"""Endings that are pieces of their own beside single characters."""


def word_level(texts: Iterable[str], extra: Sequence[str] = (), *, begin: bool = False) -> Tokenizer:
    """One token a word: those of ``texts`` that stand there twice, and all of ``extra``. ``<pad>`` is 0, ``<unk>`` 1.

    ``begin`` is for language models: there are ``<bos>`` and ``<eos>`` as well, and the first stands before every text.
    """
    from tokenizers import Tokenizer, models, processors

    special = ["<pad>", "<unk>", *(("<bos>", "<eos>") if begin else ())]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*special, *_words(texts, extra)))}, unk_token=special[1]))
    if begin:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return _finished(made, special)


def word_piece(texts: Iterable[str]) -> Tokenizer:
    """BERT's kind: the words of ``texts`` that stand there twice, and pieces that any other word is made of; [CLS] and [SEP] around."""
    from tokenizers import Tokenizer, models, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = list(texts)
    letters = sorted({letter for text in texts for letter in text.lower() if not letter.isspace()})
    words = _words(texts, ())
    pieces = [*(letter for letter in letters if letter not in set(words)), *(f"##{piece}" for piece in dict.fromkeys((*PIECES, *letters)))]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate((*special, *words, *pieces))}, unk_token=special[1]))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return _finished(made, special)


def encode(tokenizer: Tokenizer, texts: Sequence[str], length: int = LENGTH) -> list[npt.NDArray[np.int64]]:
    """Token ids of each text, cut to ``length``."""
    tokenizer.enable_truncation(length)
    rows = tokenizer.encode_batch(list(texts))
    tokenizer.no_truncation()
    return [np.array(row.ids or [PAD], np.int64) for row in rows]


def padded(rows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """(N, T), filled up on the right."""
    ids = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids


def _words(texts: Iterable[str], extra: Sequence[str]) -> list[str]:
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower()))
    known = {word for word, count in counts.items() if count >= MIN_COUNT} | set(extra)
    return sorted(known, key=lambda word: (-counts[word], word))


def _finished(made: Tokenizer, special: Sequence[str]) -> Tokenizer:
    from tokenizers import normalizers, pre_tokenizers

    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    return made
