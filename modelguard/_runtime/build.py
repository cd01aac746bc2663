"""From an artifact's checkpoints to one runnable model: which checkpoint, which factory, and what is then checked of the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelguard._runtime.heads import agreement
from modelguard._runtime.spec import ASSUMED, NORMALISATIONS, scaled
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Capability, Skip
from modelguard.errors import ModelError, SamplesError
from modelguard.model import ModelFactory, ModelOptions, RunnableModel, Samples

if TYPE_CHECKING:
    from modelguard._runtime.torch_model import TorchModel

CLEARLY = 3.0
"""Standard errors of the difference of two accuracies (at most sqrt(0.5 / n)) by which another normalisation must be better."""


def model_capabilities(
    artifact: Artifact, checkpoints: Sequence[Checkpoint], options: ModelOptions, factories: Sequence[ModelFactory]
) -> frozenset[Capability]:
    """FORWARD and GRADIENTS when some factory knows how to run some checkpoint. Reads no tensor, imports no torch."""
    known = next(candidates(artifact, checkpoints, options, factories), None)
    return frozenset() if known is None else frozenset({Capability.FORWARD, Capability.GRADIENTS})


def candidates(
    artifact: Artifact, checkpoints: Sequence[Checkpoint], options: ModelOptions, factories: Sequence[ModelFactory]
) -> Iterator[tuple[Checkpoint, ModelFactory]]:
    """Pairs that could be run, best first: by the factory's priority and id, then by the checkpoint's depth and name.

    A graph is preferred to weights alone (the ONNX factory's priority), and a checkpoint at the root to one in a sub-folder.
    """
    ordered = sorted(checkpoints, key=lambda item: (item.name.count("/"), item.name, item.format))
    for factory in sorted(factories, key=lambda item: (item.priority, item.id)):
        yield from ((checkpoint, factory) for checkpoint in ordered if factory.accepts(artifact, checkpoint, options))


def build_model(
    artifact: Artifact, checkpoints: Sequence[Checkpoint], samples: Samples | None, options: ModelOptions, factories: Sequence[ModelFactory]
) -> RunnableModel:
    """Build the model of the first pair of :func:`candidates`, on the device asked for.

    Where nobody said how pixels are normalised and the samples are labelled, the usual normalisation that agrees best is taken,
    and said. Raises :class:`Skip` when nothing can be run, :class:`ModelError` when the model must not be used.
    """
    pairs = list(candidates(artifact, checkpoints, options, factories))
    if not pairs:
        raise Skip("the artifact has no runnable model: it needs ONNX, a known config.json, or --model package.module:factory")
    checkpoint, factory = pairs[0]
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    model = factory.build(artifact, checkpoint, samples, options)
    from modelguard._runtime.torch_model import TorchModel

    if isinstance(model, TorchModel):
        model.to(choose_device(options))
        _note_choice(model, checkpoint, checkpoints)
        if samples is not None:
            _fit_samples(model, samples)
    return model


def choose_device(options: ModelOptions) -> str:
    """``cuda`` where it is asked for or, by ``auto``, there. Raises :class:`ModelError` when it is asked for and is not there."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda", "no CUDA device can be used by this torch", "use --device cpu, or install torch for CUDA")
    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"


def _note_choice(model: TorchModel, chosen: Checkpoint, checkpoints: Sequence[Checkpoint]) -> None:
    """Say which of several checkpoints was run, and whether a safetensors twin of an ONNX graph holds the same weights."""
    others = sorted(f"{item.name} ({item.format})" for item in checkpoints if item is not chosen)
    if others:
        model.facts["not_run"] = others
    twins = [item for item in checkpoints if item is not chosen and item.format == "safetensors"]
    if chosen.format == "onnx" and twins:
        model.facts["same_weights"] = {twin.name: _compare(chosen, twin) for twin in twins}


def _compare(graph: Checkpoint, twin: Checkpoint) -> dict[str, Any]:
    """Tensors of the same name and shape in both, and those of them whose values differ. An exporter may rename, fold or transpose
    weights, so that a name that is missing says nothing."""
    import numpy as np

    shared = [
        name
        for name, info in graph.tensors.items()
        if name in twin.tensors and (info.shape, info.dtype) == (twin.tensors[name].shape, twin.tensors[name].dtype)
    ]
    different = [name for name in shared if not np.array_equal(graph.read(name), twin.read(name), equal_nan=False)]
    return {"compared": len(shared), "of": len(twin.tensors), "different": different[:20]}


def _fit_samples(model: TorchModel, samples: Samples) -> None:
    """Choose the normalisation nobody told by the labels, and report the agreement."""
    if model.input.kind == "image" and samples.labels is not None and model.input.source.get("mean") == ASSUMED:
        _choose_normalisation(model, samples)
    try:
        model.facts["agreement"] = agreement(model, samples)
    except SamplesError as error:
        model.facts["agreement"] = {"count": 0, "ok": False, "reason": str(error)}


def _choose_normalisation(model: TorchModel, samples: Samples) -> None:
    """Take the usual normalisation that agrees best with the labels, if it does so clearly better than the one that was assumed."""
    original, channels = model.input, model.input.shape[0]
    if (
        model.output.kind != "classifier"
        or original.low != 0
        or original.high not in (1.0, 255.0)
        or not original.dtype.startswith("float")
    ):
        return
    try:
        assumed = agreement(model, samples)
        best, chosen, chosen_name = assumed, original, ""
        for name, (mean, std) in NORMALISATIONS.items():
            if len(mean) not in (1, channels):
                continue
            candidate = replace(original, mean=scaled(mean, original.high, channels), std=scaled(std, original.high, channels))
            model.respecify(candidate)
            result = agreement(model, samples)
            if result.get("accuracy", 0) > best.get("accuracy", 0):
                best, chosen, chosen_name = result, candidate, name
    except SamplesError:
        best, chosen, chosen_name = {"ok": False}, original, ""
    model.respecify(original)
    if not best["ok"]:
        return
    if not chosen_name or best["accuracy"] - assumed.get("accuracy", 0) < CLEARLY * (0.5 / best["count"]) ** 0.5:
        said = f"assumed; the labels bear it out ({assumed['accuracy']:.1%} agree)" if assumed["ok"] else ASSUMED
    else:
        said = f"inferred from labelled samples: pixels as {chosen_name} agree best ({best['accuracy']:.1%} of the labels)"
        original = chosen
    model.respecify(replace(original, source={**original.source, "mean": said, "std": said}))
