"""From an artifact's checkpoints to one runnable model: which checkpoint, which factory, and what is then checked of the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelguard._inputs.agreement import agreement
from modelguard._inputs.spec import ASSUMED, NORMALISATIONS, scaled
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Capability, Skip
from modelguard.errors import ModelError, ModelguardError, SamplesError
from modelguard.model import InputSpec, ModelFactory, ModelOptions, RunnableModel, Samples
from modelguard_runtime.failures import raise_if_out_of_memory

if TYPE_CHECKING:
    from modelguard_runtime.torch_model import TorchModel

UNDERSTOOD = 0.9
"""Agreement from which no better normalisation is looked for."""
TRIED = 128
"""Samples each normalisation is tried on."""
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
    try:
        model = factory.build(artifact, checkpoint, samples, options)
    except (ModelguardError, Skip):
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        raise
    from modelguard_runtime.torch_model import TorchModel

    if isinstance(model, TorchModel):
        device = choose_device(options)
        if device != "cpu" or options.precision != "float32":
            from modelguard_runtime.parity import move

            move(model, device, options.precision)
        _note_choice(model, checkpoint, checkpoints)
        if samples is not None:
            _fit_samples(model, samples)
        from modelguard_runtime.gradient import check

        check(model, samples)
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
    """Report how well predictions and samples agree, having looked for a normalisation that explains the labels better.

    One that is clearly better is taken where nobody said how pixels are normalised. Where somebody did, the model counts as not
    understanding the samples: what was said is wrong, or the samples are not what it was said of.
    """
    try:
        result = agreement(model, samples)
        if model.input.kind == "image" and samples.labels is not None and result.get("accuracy", 1.0) < UNDERSTOOD:
            better = _better_normalisation(model, samples)
            if better is not None and model.input.source.get("mean") == ASSUMED:
                model.respecify(better.spec)
                result = agreement(model, samples)
            elif better is not None:
                said = (
                    f"pixels normalised as {better.name} would agree with {better.accuracy:.1%} of the labels, not {result['accuracy']:.1%}"
                )
                result = {**result, "ok": False, "reason": said}
        model.facts["agreement"] = result
    except SamplesError as error:
        model.facts["agreement"] = {"count": 0, "ok": False, "reason": str(error)}


@dataclass(frozen=True, slots=True)
class _Normalisation:
    name: str
    spec: InputSpec
    accuracy: float


def _better_normalisation(model: TorchModel, samples: Samples) -> _Normalisation | None:
    """The usual normalisation that agrees best with the labels, if it does so clearly better than the model's own."""
    own, channels = model.input, model.input.shape[0]
    if model.output.kind != "classifier" or own.low != 0 or own.high not in (1.0, 255.0) or not own.dtype.startswith("float"):
        return None
    few = agreement(model, samples, limit=TRIED)
    best, accuracy = None, few["accuracy"] + CLEARLY * (0.5 / few["count"]) ** 0.5
    for name, (mean, std) in NORMALISATIONS.items():
        if len(mean) not in (1, channels):
            continue
        said = f"inferred from labelled samples: pixels as {name} agree best"
        spec = replace(own, mean=scaled(mean, own.high, channels), std=scaled(std, own.high, channels))
        model.respecify(replace(spec, source={**own.source, "mean": said, "std": said}))
        result = agreement(model, samples, limit=TRIED)
        if result["ok"] and result["accuracy"] > accuracy:
            best, accuracy = _Normalisation(name, model.input, result["accuracy"]), result["accuracy"]
    model.respecify(own)
    return best
