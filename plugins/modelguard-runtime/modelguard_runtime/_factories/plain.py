"""Sequential networks told from the shapes of their weights alone.

Shapes say which layers there are and how they are chained, not what stands between them. What they leave open (activation, padding,
pooling) is chosen among the usual answers by labelled samples, and said; without labelled samples only a single linear layer is run.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, ClassVar

from modelguard import (
    Artifact,
    BuildRequest,
    Checkpoint,
    InputHints,
    InputSpec,
    ModelguardError,
    Samples,
    Skip,
    agreement,
    output_spec,
    resolve_input,
)
from modelguard_runtime._factory import WeightsFactory
from modelguard_runtime._facts import ModelFacts

if TYPE_CHECKING:
    from torch import nn

    from modelguard_runtime._torch_model import TorchModel

ENOUGH_SAMPLES = 50
ENOUGH_ACCURACY = 0.5
"""Agreement with the labels below which no guess counts as the right one."""
MAX_LAYERS = 40

_ACTIVATIONS = ("ReLU", "GELU", "Tanh", "SiLU", "LeakyReLU", "Sigmoid")
_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class PlainFactory(WeightsFactory):
    """Sequences of linear or convolutional layers whose shapes leave little open; labelled samples settle the rest."""

    id: ClassVar[str] = "plain"
    priority: ClassVar[int] = 90

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        return stages(checkpoint) is not None

    def obstacle(self, request: BuildRequest) -> str:
        """What :meth:`make` would say for want of samples to choose by."""
        found, samples = stages(request.checkpoint) or (), request.samples
        enough = samples is not None and samples.labels is not None and len(samples.inputs) >= ENOUGH_SAMPLES
        if len(found) <= 1 or enough:
            return ""
        return (
            f"the shapes of {request.checkpoint.name} do not say which activation and pooling it has: give {ENOUGH_SAMPLES} labelled "
            "--samples, or --model package.module:factory"
        )

    def make(self, request: BuildRequest) -> TorchModel:
        """The guess that labelled samples agree with best. Raises :class:`Skip` when there is nothing to choose by, or no guess fits."""
        checkpoint, samples = request.checkpoint, request.samples
        found = stages(checkpoint) or ()
        hints = [InputHints.from_option(request.options.input)] if request.options.input else []
        first = found[0]
        if first.kind == "linear":
            hints.append(InputHints("first layer", "vector", (first.shape[1],)))
        else:
            hints.append(InputHints("first layer", "image", (first.shape[1], -1, -1)))
        described = resolve_input(hints, samples)
        if len(found) == 1:
            return _model(checkpoint, found, Guess("ReLU", True, "none", False), described, samples)
        if missing := self.obstacle(request):
            raise Skip(missing)
        assert samples is not None
        scored: list[tuple[float, str, TorchModel]] = []
        for guess in guesses(found, described):
            try:
                model = _model(checkpoint, found, guess, described, samples)
                result = agreement(model, samples)
            except ModelguardError:
                continue  # this guess does not even run on the input
            if result["ok"] and result["accuracy"] >= ENOUGH_ACCURACY:
                scored.append((result["accuracy"], str(guess), model))
        if not scored:
            raise Skip(
                f"no usual activation and pooling makes {checkpoint.name} agree with the labels: give --model package.module:factory"
            )
        scored.sort(key=lambda item: -item[0])
        accuracy, best, model = scored[0]
        others = tuple(f"{name}: {accuracy:.1%}" for accuracy, name, _ in scored[1:4])
        model.facts = replace(model.facts, assumed=f"{best}: {accuracy:.1%} of the labels agree", alternatives=others)
        return model


@dataclass(frozen=True, slots=True)
class Stage:
    """One layer: ``kind`` is conv, linear or norm (batch-norm); ``shape`` that of its weight; ``bias`` whether it has one."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bias: bool


@dataclass(frozen=True, slots=True)
class Guess:
    """What the shapes leave open. ``pool`` is none, max, or average, after every convolution; ``squeeze`` averages each channel away."""

    activation: str
    padded: bool
    pool: str
    squeeze: bool

    def __str__(self) -> str:
        padding = "same" if self.padded else "no"
        return f"{self.activation}, {padding} padding, {self.pool} pooling{', global average' if self.squeeze else ''}"


def stages(checkpoint: Checkpoint) -> tuple[Stage, ...] | None:
    """The layers in order, or None when the tensors are not a chain of linear, convolutional and batch-norm layers.

    The order is that of the numbers in the names, parts with convolutions first (``features`` before ``classifier``). Cheap: looks at
    headers only.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, info in checkpoint.tensors.items():
        layer, _, part = name.rpartition(".")
        if part not in _PARTS or len(layers) > MAX_LAYERS:
            return None
        layers.setdefault(layer, {})[part] = info.shape
    found = []
    convolutional = {name.rpartition(".")[0] for name, parts in layers.items() if len(parts.get("weight", ())) == 4}
    for name in sorted(layers, key=lambda name: (name.rpartition(".")[0] not in convolutional, _natural(name))):
        parts = layers[name]
        shape = parts.get("weight", ())
        kind = "norm" if "running_mean" in parts else {2: "linear", 4: "conv"}.get(len(shape))
        if kind is None:
            return None
        found.append(Stage(name, kind, shape, "bias" in parts))
    return tuple(found) if _chained(found) else None


def _chained(found: list[Stage]) -> bool:
    """Convolutions first, then linear layers, each taking what the one before gives."""
    kinds = [stage.kind for stage in found if stage.kind != "norm"]
    if not kinds or kinds[-1] != "linear" or found[-1].kind != "linear" or kinds != sorted(kinds):
        return False
    if found[0].kind == "norm":
        return False
    for before, after in pairwise(found):
        width = before.shape[0]
        if after.kind == "norm":
            fits = after.shape == (width,) and before.kind != "norm"
        elif after.kind == "conv" or before.kind == "linear":
            fits = after.shape[1] == width
        else:
            fits = after.shape[1] % width == 0
        if not fits:
            return False
    return True


def _natural(name: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def guesses(found: tuple[Stage, ...], described: InputSpec) -> Iterator[Guess]:
    """Usual answers whose flattened size is what the first linear layer takes."""
    if found[0].kind == "linear":
        yield from (Guess(activation, True, "none", False) for activation in _ACTIVATIONS)
        return
    for activation, padded, pool, squeeze in product(_ACTIVATIONS, (True, False), ("none", "max", "average"), (False, True)):
        guess = Guess(activation, padded, pool, squeeze)
        if _flattened(found, described, guess):
            yield guess


def _flattened(found: tuple[Stage, ...], described: InputSpec, guess: Guess) -> bool:
    """Whether the convolutions under this guess give as many values as the first linear layer takes."""
    height, width = described.shape[1:]
    channels = 0
    for stage in found:
        if stage.kind == "linear":
            size = channels if guess.squeeze else channels * height * width
            return min(height, width) > 0 and size == stage.shape[1]
        if stage.kind == "conv":
            channels = stage.shape[0]
            if not guess.padded:
                height, width = height - stage.shape[2] + 1, width - stage.shape[3] + 1
            if guess.pool != "none":
                height, width = height // 2, width // 2
    return False


def _model(checkpoint: Checkpoint, found: tuple[Stage, ...], guess: Guess, described: InputSpec, samples: Samples | None) -> TorchModel:
    from modelguard_runtime._torch_model import TorchModel
    from modelguard_runtime._weights import fit, state_dict

    module = _module(found, guess)
    names = {f"{place}.": f"{stage.name}." for place, stage in enumerate(found)}
    tensors = state_dict(checkpoint)
    stored = {}
    for own in module.state_dict():
        place, dot, part = own.partition("_")[2].partition(".")
        if (name := names[place + dot] + part) in tensors:
            stored[own] = name
    fit(module, {own: tensors[name] for own, name in stored.items()}, checkpoint.name)
    facts = ModelFacts(factory="plain: layers told from the shapes of the weights", checkpoint=checkpoint.name)
    return TorchModel(module, described, lambda width, head: output_spec(width, head, samples), stored=stored, facts=facts)


def _module(found: tuple[Stage, ...], guess: Guess) -> nn.Sequential:
    """The network; layer ``i`` is called ``<kind>_<i>``, what stands after it ``act_<i>`` and ``pool_<i>``."""
    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    flat = found[0].kind == "linear"
    for place, stage in enumerate(found):
        if stage.kind == "conv":
            padding = (stage.shape[2] // 2, stage.shape[3] // 2) if guess.padded else (0, 0)
            kernel = (stage.shape[2], stage.shape[3])
            parts[f"conv_{place}"] = nn.Conv2d(stage.shape[1], stage.shape[0], kernel, padding=padding, bias=stage.bias)
        elif stage.kind == "norm":
            parts[f"norm_{place}"] = nn.BatchNorm1d(stage.shape[0]) if flat else nn.BatchNorm2d(stage.shape[0])
        else:
            if not flat:
                if guess.squeeze:
                    parts["squeeze"] = nn.AdaptiveAvgPool2d(1)
                parts["flatten"] = nn.Flatten()
                flat = True
            parts[f"linear_{place}"] = nn.Linear(stage.shape[1], stage.shape[0], bias=stage.bias)
        after = found[place + 1].kind if place + 1 < len(found) else None
        if after is None or after == "norm":
            continue
        parts[f"act_{place}"] = getattr(nn, guess.activation)()
        if not flat and guess.pool != "none":
            parts[f"pool_{place}"] = nn.MaxPool2d(2) if guess.pool == "max" else nn.AvgPool2d(2)
    return nn.Sequential(parts)
