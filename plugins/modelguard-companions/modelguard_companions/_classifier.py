"""What a search over inputs asks of a model before it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelguard_triggers.evidence import require_classifier

from modelguard import Skip, require_understanding

if TYPE_CHECKING:
    from modelguard import RunnableModel, Target


def searchable(target: Target) -> RunnableModel:
    """The target's model, if it is a classifier with enough classes for one of them to stand out, and its inputs can be searched.

    Its input must be one that can be changed continuously, whose sizes and raw range are known, and samples, where there are any, must be
    understood: a search over the wrong inputs says nothing of the right ones. Raises :class:`~modelguard.Skip` with the reason otherwise.
    """
    model = target.model
    if model.input.kind == "text":
        raise Skip("the model takes token ids, and this search needs an input that can be changed continuously")
    require_classifier(model)
    if any(size < 1 for size in model.input.shape):
        what, shape = ("images", "CxHxW") if model.input.kind == "image" else ("vectors", "F")
        raise Skip(f"the model takes {what} of any size: give --samples, or say --input shape={shape}")
    if target.samples is not None:
        require_understanding(model, target.samples)
    if not model.input.domain_known:
        raise Skip("nothing says which raw values the model takes: give --samples with labels, or --input range=LOW..HIGH,mean=...,std=...")
    return model
