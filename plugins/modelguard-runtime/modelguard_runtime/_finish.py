"""What every model goes through once it is made: device and precision, the other checkpoints, the samples, the gradient."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from modelguard import (
    ASSUMED,
    BuildRequest,
    Checkpoint,
    InputSpec,
    ModelError,
    ModelguardError,
    ModelOptions,
    Samples,
    SamplesError,
    agreement,
    usual_normalisations,
)
from modelguard_runtime import _gradient, _parity
from modelguard_runtime._torch_model import TorchModel

UNDERSTOOD = 0.9
"""Agreement from which no better normalisation is looked for."""
TRIED = 128
"""Samples each normalisation is tried on."""
CLEARLY = 3.0
"""Standard errors of the difference of two accuracies (at most sqrt(0.5 / n)) by which another normalisation must be better."""


def finish(model: TorchModel, request: BuildRequest) -> None:
    """Make ``model`` what was asked for, in place, and check what its use depends on.

    Where nobody said how pixels are normalised and the samples are labelled, the usual normalisation that agrees best is taken,
    and said. Raises :class:`~modelguard.ModelError` when the model must not be used.
    """
    device = choose_device(request.options)
    if device != "cpu" or request.options.precision != "float32":
        _parity.move(model, device, request.options.precision)
    _note_choice(model, request.checkpoint, request.others)
    if request.samples is not None:
        _fit_samples(model, request.samples)
    _gradient.check(model, request.samples)


def choose_device(options: ModelOptions) -> str:
    """``cuda`` where it is asked for or, by ``auto``, there. Raises :class:`~modelguard.ModelError` when it is asked for and is not
    there."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda", "no CUDA device can be used by this torch", "use --device cpu, or install torch for CUDA")
    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"


def _note_choice(model: TorchModel, chosen: Checkpoint, others: tuple[Checkpoint, ...]) -> None:
    """Say which of several checkpoints was run, and whether a twin of an ONNX graph, without one, holds the same weights."""
    if others:
        model.facts = replace(model.facts, not_run=tuple(sorted(f"{item.name} ({item.format})" for item in others)))
    twins = [item for item in others if item.format != "onnx"]
    if chosen.format == "onnx" and twins:
        model.facts = replace(model.facts, same_weights={twin.name: _compare(chosen, twin) for twin in twins})


def _compare(graph: Checkpoint, twin: Checkpoint) -> dict[str, Any]:
    """Tensors of the same name and shape in both, and those of them whose values differ. An exporter may rename, fold or transpose
    weights, so that a name that is missing says nothing."""
    shared = [
        name
        for name, info in graph.tensors.items()
        if name in twin.tensors and (info.shape, info.dtype) == (twin.tensors[name].shape, twin.tensors[name].dtype)
    ]
    different = [name for name in shared if not np.array_equal(graph.read(name), twin.read(name), equal_nan=False)]
    return {"compared": len(shared), "of": len(twin.tensors), "different": different[:20]}


def _fit_samples(model: TorchModel, samples: Samples) -> None:
    """Report how well predictions and samples agree, having looked for a normalisation that explains the labels better.

    One that is clearly better is taken where nobody said how pixels are normalised. Where somebody did, the model counts as not
    understanding the samples: what was said is wrong, or the samples are not what it was said of.
    """
    try:
        result = agreement(model, samples)
        if samples.labels is not None and result.get("accuracy", 1.0) < UNDERSTOOD:
            better = _better_normalisation(model, samples)
            if better is not None and model.input.source.get("mean") == ASSUMED:
                model.respecify(better[1])
                result = agreement(model, samples)
            elif better is not None:
                name, _, accuracy = better
                said = f"pixels normalised as {name} would agree with {accuracy:.1%} of the labels, not {result['accuracy']:.1%}"
                result = {**result, "ok": False, "reason": said}
    except (SamplesError, ModelError) as error:
        if isinstance(error, ModelError) and error.thing != "tokenizer":
            raise
        known = {"samples_sha256": samples.sha256, "of": len(samples.inputs)} if model.text is not None else {}
        result = {"count": 0, **known, "ok": False, "reason": str(error)}
    model.facts = replace(model.facts, agreement=result)
    with suppress(ModelguardError):  # it was said above
        if cut := model.longer(samples):
            most = model.text.length if model.text is not None else None
            model.facts = replace(model.facts, cut={"samples": cut, "of": len(samples.inputs), "length": most or 0})


def _better_normalisation(model: TorchModel, samples: Samples) -> tuple[str, InputSpec, float] | None:
    """The usual normalisation that agrees best with the labels, if clearly better than the model's own: its name, the input so
    described, and the accuracy."""
    own, tried = model.input, tuple(usual_normalisations(model.input))
    if model.output.kind != "classifier" or not tried:
        return None
    few = agreement(model, samples, limit=TRIED)
    best, accuracy = None, few["accuracy"] + CLEARLY * (0.5 / few["count"]) ** 0.5
    for name, spec in tried:
        model.respecify(spec)
        result = agreement(model, samples, limit=TRIED)
        if result["ok"] and result["accuracy"] > accuracy:
            best, accuracy = (name, spec, result["accuracy"]), result["accuracy"]
    model.respecify(own)
    return best
