"""What the user gave, as an evaluation takes it: labelled samples, and a trigger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from modelguard_triggers.evidence import require_classifier
from modelguard_triggers.facts import class_name

from modelguard import Skip, class_numbers, require_understanding
from modelguard_evaluate._measure import Inputs
from modelguard_evaluate._stored import from_report
from modelguard_evaluate._triggers import Function, Phrase, Trigger, function, picture

if TYPE_CHECKING:
    from modelguard import RunnableModel, Samples

TEXT = "text:"
"""What a trigger that is a phrase begins with."""


def labelled(model: RunnableModel, samples: Samples) -> Inputs:
    """The samples with their classes. Raises :class:`~modelguard.Skip` where triggers cannot be measured on them: the model is no
    classifier or does not understand them, they have no labels or are of one class, or are neither images nor texts."""
    require_classifier(model, 2)
    require_understanding(model, samples)
    if (labels := class_numbers(model, samples)) is None:
        raise Skip("the samples have no labels: attack success means nothing without clean accuracy; give labels as well")
    if len(np.unique(labels)) < 2:
        raise Skip(f"all samples are of class {class_name(model, int(labels[0]))}: give samples of other classes too")
    if model.input.kind == "image":
        return Inputs(np.asarray(model.inputs(samples).cpu().numpy(), np.float32), labels)
    if model.input.kind == "text" and samples.inputs.ndim == 1:
        return Inputs([str(text) for text in samples.inputs], labels)
    taken = "token ids" if model.input.kind == "text" else f"{model.input.kind} inputs"
    raise Skip(f"the samples are {taken}; triggers are evaluated on images and on texts")


def read_trigger(
    model: RunnableModel, inputs: Inputs, trigger: str, mask: str = "", finding: str = "", folder: Path = Path()
) -> tuple[Trigger, int | None]:
    """The trigger that is named as on the command line of ``modelguard evaluate``, and the class that a finding accuses (None elsewhere).

    Paths and modules are looked up from ``folder``. Raises :class:`~modelguard.UsageError`, or :class:`~modelguard.Skip` where it is none
    that the model could see.
    """
    text = isinstance(inputs.samples, list)
    known: int | None = None
    found: Trigger
    if trigger.startswith(TEXT):
        found = Phrase(trigger.removeprefix(TEXT))
        _require_tokens(model, found)
    elif trigger.endswith(".json"):
        found, known = from_report(folder / trigger, finding, model, inputs)
    elif ":" in trigger and not (folder / trigger).exists():
        found = function(trigger, str(folder.absolute()), model.input)
    elif text:
        raise Skip(f"the trigger {trigger} is a picture, the model takes text: write text:WORDS")
    else:
        found = picture(folder / trigger, folder / mask if mask else None, model.input, inputs.samples.shape[1:])
    if isinstance(found, Phrase) != text and not isinstance(found, Function):
        raise Skip(f"the trigger is a {found.kind}, the model takes {'text' if text else 'images'}")
    return found, known


def _require_tokens(model: RunnableModel, phrase: Phrase) -> None:
    """Raise :class:`~modelguard.Skip` where the model does not know one word of ``phrase``: it would see no trigger."""
    if (spec := model.text) is not None and spec.tokens and set(model.encode([phrase.words]).ravel().tolist()) <= set(spec.special):
        raise Skip(f"the tokenizer has no token for {phrase.words!r}: the model would not see the trigger")
