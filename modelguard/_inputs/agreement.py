"""Whether a model understands the samples it is given: a detector run on samples it does not understand must not conclude anything."""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from typing import TYPE_CHECKING, Any

from modelguard.detector import Skip
from modelguard.errors import SamplesError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modelguard.model import RunnableModel, Samples

MAX_SAMPLES = 256
SIGNIFICANCE = 0.01
"""Chance that agreement this good comes about by luck, above which the samples count as not understood."""
UNCERTAIN = 0.95
"""Mean entropy of the predictions, as a share of the largest possible, from which the model is guessing."""
ENOUGH = 20
"""Samples from which one class for all of them is no coincidence."""


def agreement(model: RunnableModel, samples: Samples, *, limit: int = MAX_SAMPLES) -> dict[str, Any]:
    """How well predictions and samples fit, on up to ``limit`` samples spread evenly over the file; JSON-safe.

    With labels: ``accuracy``, ``chance`` (the accuracy that labels and predictions with the same frequencies have when they are
    independent, Cohen 1960) and ``p`` (one-sided binomial); ``ok`` when p < 0.01. Labels that are all the same cannot tell, and are
    ok from half right on. Without labels: ``entropy`` of the predictions as a share of log K, and ``classes_seen``; ``ok`` unless
    every prediction is the same class or the model is guessing. ``reason`` says why not. Unless it is a classifier, ``ok`` is None.

    Raises :class:`SamplesError` when the samples do not fit the model's input, or a label names no class of it.
    """
    import numpy as np

    if model.output.kind != "classifier":
        return {"count": 0, "ok": None, "reason": f"the model is {model.output.described}"}
    index = np.unique(np.linspace(0, len(samples.inputs) - 1, min(limit, len(samples.inputs))).astype(int))
    logits = model.predict(model.inputs(_subset(samples, index)).detach().cpu().numpy())
    predictions = logits.argmax(1)
    identity = {"samples_sha256": samples.sha256, "of": len(samples.inputs)}
    result: dict[str, Any] = {"count": len(index), **identity, "classes_seen": len(np.unique(predictions))}
    if not np.isfinite(logits).all():
        return {**result, "ok": False, "reason": "the model returns values that are not finite"}
    labels = class_numbers(model, samples)
    if labels is None:
        return {**result, **_unlabelled(logits, predictions)}
    return {**result, **_labelled(predictions, labels[index], model.output.classes)}


def require_understanding(model: RunnableModel, samples: Samples) -> dict[str, Any]:
    """:func:`agreement`, or :class:`Skip` with the numbers when the model plainly does not understand the samples.

    What was found when the model was built is used again when it was about these very samples.
    """
    known = model.describe().get("agreement") or {}
    same = samples.sha256 and (known.get("samples_sha256"), known.get("of")) == (samples.sha256, len(samples.inputs))
    result = known if same else agreement(model, samples)
    if result["ok"] is not True and result["count"] < ENOUGH and result.get("accuracy", 0.0) >= 0.5:
        raise Skip(
            f"{result['count']} samples of {samples.origin} are too few to tell whether the model understands them: "
            f"{result['reason']}; give more samples, of several classes"
        )
    if result["ok"] is not True:
        elsewhere = "" if model.input.kind == "text" else ", and say --input range=...,mean=...,std=... if they are normalised elsewhere"
        raise Skip(
            f"the model does not understand the samples in {samples.origin}: {result['reason']}; "
            f"check that they belong to this model{elsewhere}"
        )
    return result


def class_numbers(model: RunnableModel, samples: Samples) -> npt.NDArray[np.int64] | None:
    """The samples' labels as the model numbers its classes: by name when both name them alike, else as they are.

    Raises :class:`SamplesError` for a label that is no class of the model.
    """
    import numpy as np

    labels = samples.labels
    if labels is None:
        return None
    places = {name.casefold(): place for place, name in enumerate(model.output.labels)}
    if samples.label_names and all(name.casefold() in places for name in samples.label_names):
        labels = np.array([places[name.casefold()] for name in samples.label_names], np.int64)[labels]
    if labels.max(initial=0) >= model.output.classes:
        raise SamplesError(
            samples.origin,
            f"has label {labels.max()}, the model has classes 0..{model.output.classes - 1}",
            "these samples are another task's",
        )
    return labels


def _subset(samples: Samples, index: npt.NDArray[Any]) -> Samples:
    from dataclasses import replace

    return replace(samples, inputs=samples.inputs[index], labels=None if samples.labels is None else samples.labels[index])


def _labelled(predictions: npt.NDArray[Any], labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
    import numpy as np

    count, hits = len(labels), int((predictions == labels).sum())
    accuracy = hits / count
    told, truth = (np.bincount(values, minlength=classes) / count for values in (predictions, labels))
    if len(np.unique(labels)) == 1:
        ok = accuracy >= 0.5
        reason = "" if ok else f"{accuracy:.1%} of {count} samples, all labelled alike, are predicted as labelled"
        return {"accuracy": accuracy, "chance": 1 / max(2, classes), "p": None, "ok": ok, "reason": reason}
    chance = float(told @ truth)
    p = _binomial_tail(hits, count, chance)
    ok = p < SIGNIFICANCE and accuracy > chance
    reason = "" if ok else f"{accuracy:.1%} of {count} predictions agree with the labels, chance alone gives {chance:.1%}"
    return {"accuracy": accuracy, "chance": chance, "p": p, "ok": ok, "reason": reason}


def _unlabelled(logits: npt.NDArray[np.float32], predictions: npt.NDArray[Any]) -> dict[str, Any]:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    entropy = float(-(np.exp(log_p) * log_p).sum(1).mean() / log(logits.shape[1])) if logits.shape[1] > 1 else 0.0
    reason = ""
    if len(predictions) >= ENOUGH and logits.shape[1] > 1 and len(np.unique(predictions)) == 1:
        reason = f"all {len(predictions)} of them are predicted as class {predictions[0]}"
    elif entropy > UNCERTAIN:
        reason = f"its predictions are nearly uniform (entropy {entropy:.1%} of the largest possible)"
    return {"entropy": entropy, "ok": not reason, "reason": reason}


def _binomial_tail(hits: int, count: int, chance: float) -> float:
    """P(X >= hits) for X binomial(count, chance)."""
    if hits == 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    whole = lgamma(count + 1)
    terms = (whole - lgamma(k + 1) - lgamma(count - k + 1) + k * log(chance) + (count - k) * log1p(-chance) for k in range(hits, count + 1))
    return min(1.0, sum(map(exp, terms)))
