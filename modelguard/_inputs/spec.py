"""Resolving an :class:`~modelguard.model.InputSpec` from what the user, the graph, the configuration and the samples say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from modelguard._inputs.hints import InputHints
from modelguard.errors import ModelError
from modelguard.model import ASSUMED, InputSpec, Samples

NORMALISATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0..1": ((0.0,), (1.0,)),
    "-1..1": ((0.5,), (0.5,)),
    "0..255": ((0.0,), (1 / 255,)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST": ((0.1307,), (0.3081,)),
}
"""Usual normalisations (mean, std) of pixels in 0..1: those of torchvision's and Keras' examples and of transformers' processors."""


def resolve_input(hints: Sequence[InputHints], samples: Samples | None) -> InputSpec:
    """The input spec: each field from the first of ``hints`` that has it, then from the samples, then assumed.

    Raises :class:`ModelError` when nobody says what shape the input has.
    """
    chosen = _Choice([*hints, *([InputHints.from_samples(samples)] if samples is not None else [])])
    kind = chosen.pick("kind", None)
    if kind is None:
        raise ModelError("input", "is not described by the model", "give --samples, or say --input shape=3x224x224")
    shape = _merge_shape(chosen, kind)
    layout = chosen.pick("layout", {"image": "NCHW", "vector": "NF", "text": "NT"}[kind])
    dtype = chosen.pick("dtype", "int64" if kind == "text" else "float32")
    low = chosen.pick("low", 0.0)
    high = chosen.pick("high", 255.0 if dtype == "uint8" else 1.0)
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ModelError("input", f"has the range {low:g}..{high:g}", "say --input range=LOW..HIGH")
    mean, std = _normalisation(chosen, kind, dtype, high, abs(shape[0]))
    if std is not None and any(not isfinite(value) or value <= 0 for value in std):
        raise ModelError("input", f"has the standard deviation {min(std):g}", "say --input std=...")
    return InputSpec(kind, shape, dtype, layout, low, high, mean, std, dict(sorted(chosen.source.items())))


@dataclass
class _Choice:
    hints: Sequence[InputHints]
    source: dict[str, str] = field(default_factory=dict)

    def pick(self, name: str, default: Any) -> Any:
        for hint in self.hints:
            value = getattr(hint, name)
            if value is not None:
                self.source[name] = hint.source
                return value
        self.source[name] = ASSUMED
        return default


def _merge_shape(chosen: _Choice, kind: str) -> tuple[int, ...]:
    """The first shape that is given, its free dimensions filled from the later ones of the same rank."""
    rank = 3 if kind == "image" else 1
    shapes = [(hint.source, hint.shape) for hint in chosen.hints if hint.shape is not None and len(hint.shape) == rank]
    if not shapes:
        raise ModelError("input", f"has no shape that is known, though it is {kind}", "give --samples, or say --input shape=3x224x224")
    chosen.source["shape"], shape = shapes[0]
    for source, other in shapes[1:]:
        filled = tuple(have if size < 0 else size for size, have in zip(shape, other, strict=True))
        if filled != shape:
            chosen.source["shape"] += f", {source}"
        shape = filled
    return shape


def _normalisation(
    chosen: _Choice, kind: str, dtype: str, high: float, channels: int
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation in raw units, or None for both when a raw value is what the graph takes."""
    for hint in chosen.hints:
        if hint.mean is None and hint.std is None:
            continue
        chosen.source["mean"] = chosen.source["std"] = hint.source
        scale = high if hint.unit else 1.0
        return _scaled(hint.mean or (0.0,), scale, channels), _scaled(hint.std or (1.0,), scale, channels)
    chosen.source["mean"] = chosen.source["std"] = ASSUMED
    if kind == "image" and high == 255.0 and dtype.startswith("float"):
        # A float graph that says nothing most often takes 0..1 (torchvision's ToTensor); labels can prove otherwise.
        return _scaled((0.0,), 1.0, channels), _scaled((255.0,), 1.0, channels)
    return None, None


def _scaled(values: tuple[float, ...], scale: float, channels: int) -> tuple[float, ...]:
    """One value a channel, times ``scale``."""
    if len(values) not in (1, channels):
        raise ModelError("input", f"has {channels} channels but a normalisation of {len(values)}", "say --input mean=...,std=...")
    return tuple(value * scale for value in (values * channels if len(values) == 1 else values))


def usual_normalisations(spec: InputSpec) -> Iterator[tuple[str, InputSpec]]:
    """``spec`` with each usual normalisation its channels allow, and the name of that one.

    Nothing for what takes no pixels 0..1 or 0..255 as floating-point numbers.
    """
    if spec.kind != "image" or spec.low != 0 or spec.high not in (1.0, 255.0) or not spec.dtype.startswith("float"):
        return
    channels = spec.shape[0]
    for name, (mean, std) in NORMALISATIONS.items():
        if len(mean) not in (1, channels):
            continue
        said = f"inferred from labelled samples: pixels as {name} agree best"
        source = {**spec.source, "mean": said, "std": said}
        yield name, replace(spec, mean=_scaled(mean, spec.high, channels), std=_scaled(std, spec.high, channels), source=source)
