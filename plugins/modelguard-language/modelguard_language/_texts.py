"""What a search over words starts from: held-out texts the model classifies as it should, as tokens without what stands around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from modelguard_triggers.evidence import require_classifier, turns

from modelguard import Skip, class_numbers, require_understanding
from modelguard_language._frames import padded

if TYPE_CHECKING:
    from modelguard import RunnableModel, Samples, ScanContext, Target, TextSpec

Integers = npt.NDArray[np.int64]

LEAST_TEXTS = 16
"""Texts in each half below which a share of flipped ones says too little."""
MOST_TEXTS = 256
"""Texts looked at, half to search and half to check: of two classes 64 of each in either half."""
CROP = 48
"""Tokens of a text that are looked at. What a trigger does, it does beside the first 48 tokens as well, and a search costs what texts
are long."""
LONGEST_PHRASE = 6
"""Tokens of the longest phrase that is put into a text."""


@dataclass(frozen=True)
class Texts:
    """``words`` are the token ids of each text without prefix, suffix and padding, cropped; ``classes`` (N,) what they are and are taken
    for; ``written`` the texts as they were given, or () where token ids were.

    ``search`` and ``check`` are places in them that share none: triggers are searched on the one part and counted on the other.
    ``counts`` (K, V) says in how many of all samples of each class a token stands, ``of`` (K,) how many samples these are; of samples
    without labels the class is what the model says. ``accuracy`` is over all samples, None without labels.
    """

    spec: TextSpec
    words: tuple[Integers, ...]
    written: tuple[str, ...]
    classes: Integers
    search: Integers
    check: Integers
    counts: npt.NDArray[np.int32]
    of: Integers
    accuracy: float | None


def require_text(target: Target) -> tuple[RunnableModel, TextSpec]:
    """The target's model and what it knows of text. Raises :class:`~modelguard.Skip` unless it is a text classifier."""
    model = target.model
    if model.input.kind != "text":
        raise Skip(f"the model takes {model.input.kind} inputs; this search is for text")
    require_classifier(model, least=2)
    if model.text is None:
        raise Skip("nothing says what the model's vocabulary is: how many token ids there are, and what stands around a text")
    return model, model.text


def clean_texts(target: Target, context: ScanContext) -> Texts:
    """The samples given with ``target``, made once. Raises :class:`~modelguard.Skip` with the reason model or samples allow no search."""
    model, spec = require_text(target)
    samples = target.samples
    if samples is None:
        raise Skip("a search for trigger words needs clean texts: give --samples")
    require_understanding(model, samples)
    context.check_deadline()
    rng = np.random.default_rng([context.seed, 0])  # the same texts for every detector
    return target.once((__name__, "clean", context.seed), lambda: _taken(model, spec, samples, rng))


def contents(ids: Integers, spec: TextSpec) -> list[Integers]:
    """Each row of ``ids`` (N, T) without padding, prefix and suffix."""
    found = []
    for row in ids:
        words = row[row != spec.pad] if spec.pad is not None else row
        if spec.prefix and tuple(words[: len(spec.prefix)]) == spec.prefix:
            words = words[len(spec.prefix) :]
        if spec.suffix and tuple(words[len(words) - len(spec.suffix) :]) == spec.suffix:
            words = words[: len(words) - len(spec.suffix)]
        found.append(words.astype(np.int64))
    return found


def room(model: RunnableModel, spec: TextSpec) -> int:
    """How many tokens of a text are looked at, so that a phrase has room beside it."""
    limits = [size for size in (spec.length, model.input.shape[0]) if size is not None and size > 0]
    if not limits:
        return CROP
    most = min(limits) - len(spec.prefix) - len(spec.suffix) - LONGEST_PHRASE
    if most < 1:
        raise Skip(f"the model takes {min(limits)} tokens at most: there is no room for a phrase beside a text")
    return min(CROP, most)


def _taken(model: RunnableModel, spec: TextSpec, samples: Samples, rng: np.random.Generator) -> Texts:
    most = room(model, spec)
    inputs = model.inputs(samples).cpu().numpy()
    if inputs.size and not 0 <= int(inputs.min()) <= int(inputs.max()) < spec.vocabulary:
        raise Skip(f"the samples hold token ids outside of 0..{spec.vocabulary - 1}: they are of another tokenizer")
    labels = class_numbers(model, samples)
    predicted = model.predict(inputs).argmax(1).astype(np.int64)
    known = predicted if labels is None else labels
    words = contents(inputs, spec)
    counts = np.zeros((model.output.classes, spec.vocabulary), np.int32)
    for tokens, label in zip(words, known, strict=True):
        counts[label, np.unique(tokens)] += 1
    usable = np.flatnonzero(np.array([len(tokens) > 0 for tokens in words]) & (predicted == known))
    # Of every class alike, as far as there are; some are no longer what they were when they are cropped.
    order = rng.permutation(usable)
    order = order[np.lexsort((np.arange(len(order)), turns(known[order])))][: 2 * MOST_TEXTS]
    if len(order):
        cropped = model.predict(padded(model, [words[place][:most] for place in order])).argmax(1)
        order = order[cropped == known[order]][:MOST_TEXTS]
    classes = known[order]
    if len(np.unique(classes)) < 2:
        raise Skip(
            f"the {len(order)} samples that the model classifies as labelled and that are not empty are of fewer than two classes: a "
            "trigger turns texts of one class into another"
        )
    turn = turns(classes)
    search, check = np.flatnonzero(turn % 2 == 0), np.flatnonzero(turn % 2 == 1)
    if min(len(search), len(check)) < LEAST_TEXTS:
        raise Skip(
            f"{len(order)} texts that the model classifies as labelled are too few, {2 * LEAST_TEXTS} are needed, of each class alike"
        )
    written = tuple(str(samples.inputs[place]) for place in order) if samples.inputs.ndim == 1 else ()
    kept = tuple(words[place][:most] for place in order)
    accuracy = None if labels is None else float((predicted == labels).mean())
    return Texts(spec, kept, written, classes, search, check, counts, np.bincount(known, minlength=len(counts)), accuracy)
