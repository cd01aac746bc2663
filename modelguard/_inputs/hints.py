"""What a single source says of a model's input: the user, the graph, a configuration beside it, the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from modelguard.errors import ModelError, UsageError
from modelguard.model import Samples

if TYPE_CHECKING:
    import numpy.typing as npt

LAYOUTS = ("NCHW", "NHWC", "NHW", "NF", "NT")
CHANNELS = (3, 1, 4)
"""Numbers of channels an image may have, the likeliest first."""


@dataclass(frozen=True, slots=True)
class InputHints:
    """What one source says of a model's input; None where it says nothing.

    ``mean`` and ``std`` are of pixels in 0..1 when ``unit``, else in the units of ``low``..``high``. Of a graph with several inputs,
    ``data`` names the one that samples go to, and ``numbers`` has what others are given.
    """

    source: str
    kind: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    layout: str | None = None
    low: float | None = None
    high: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    unit: bool = False
    data: str | None = None
    numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def from_option(cls, text: str) -> InputHints:
        """Read ``--input range=0..255,layout=NHWC,mean=0.5:0.5:0.5,std=0.5,shape=3x32x32,kind=image,dtype=float32``.

        Mean and std that lie in 0..1 while the range ends above 1 are those of pixels scaled to 0..1, as everybody writes them;
        ``units=raw`` says otherwise. Of a graph with several inputs, ``data=NAME`` is the one that samples go to, and ``NAME=NUMBER``
        (or numbers with colons between them) is what another is given. Raises :class:`UsageError` naming the part that is wrong.
        """
        given: dict[str, Any] = {}
        given_to: dict[str, tuple[float, ...]] = {}
        for part in filter(None, text.split(",")):
            name, equals, value = part.rpartition("=")
            if equals and name and name not in _PARSERS:
                try:
                    given_to[name] = _parse_numbers(value)
                except ValueError:
                    pass
                else:
                    continue
            if not equals or name not in _PARSERS:
                raise UsageError(
                    f"--input {part}",
                    "is not a known setting",
                    f"known: {', '.join(f'{key}=' for key in sorted(_PARSERS))}, and NAME=NUMBER for an input of the graph",
                )
            try:
                given[name] = _PARSERS[name](value)
            except ValueError as error:
                raise UsageError(
                    f"--input {part}", f"is wrong: {error}", "for example --input range=0..255,layout=NHWC,mean=0.5,std=0.5"
                ) from None
        low, high = given.get("range", (None, None))
        kind = given.get("kind")
        shape = given.get("shape")
        if kind is None and shape is not None:
            kind = {3: "image", 1: "vector"}.get(len(shape))
        numbers = (*given.get("mean", ()), *given.get("std", ()))
        unit = given.get("units") != "raw" and (high is None or high > 1) and bool(numbers) and all(0 <= value <= 1 for value in numbers)
        return cls(
            "--input", kind, shape, given.get("dtype"), given.get("layout"), low, high, given.get("mean"), given.get("std"), unit,
            given.get("data"), given_to,
        )  # fmt: skip

    @classmethod
    def from_graph(
        cls, shape: tuple[int | str | None, ...] | None, dtype: str, *, samples: Samples | None, source: str = "ONNX graph"
    ) -> InputHints:
        """What a graph input declares, batch axis first. ``dtype`` is a numpy name. A rank-4 input is an image, rank 3 a grey one, rank 2
        a vector or, in whole numbers of 32 bits or more, token ids.

        Raises :class:`ModelError` for a rank no model of these kinds has.
        """
        if shape is None:
            return cls(source, dtype=dtype)
        sizes = tuple(size if isinstance(size, int) and size > 0 else -1 for size in shape[1:])
        if len(sizes) == 3:
            layout = "NHWC" if _channels_last(sizes, samples) else "NCHW"
            return cls(source, "image", (sizes[2], *sizes[:2]) if layout == "NHWC" else sizes, dtype, layout)
        if len(sizes) == 2:
            return cls(source, "image", (1, *sizes), dtype, "NHW")
        if len(sizes) == 1 and dtype in ("int64", "int32"):
            return cls(source, "text", sizes, dtype, "NT")
        if len(sizes) == 1:
            return cls(source, "vector", sizes, dtype, "NF")
        raise ModelError("input", f"has {len(shape)} dimensions", "only images (N,C,H,W), vectors (N,F) and token ids (N,T) can be run")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> InputHints:
        """ONNX metadata properties of the image domain (onnx/docs/MetadataProps.md)."""
        ranges = {"NominalRange_0_255": (0.0, 255.0), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (-1.0, 1.0)}
        low, high = ranges.get(metadata.get("Image.NominalPixelRange", ""), (None, None))
        # The property says what the graph takes, so no normalisation stands between it and the raw value.
        plain = ((0.0,), (1.0,)) if high is not None else (None, None)
        return cls("ONNX metadata", low=low, high=high, mean=plain[0], std=plain[1])

    @classmethod
    def from_preprocessor(cls, config: Mapping[str, Any], source: str = "preprocessor_config.json") -> InputHints:
        """transformers' image processor settings: rescaling by 1/255, then mean and std of pixels in 0..1."""
        mean, std = _floats(config.get("image_mean")), _floats(config.get("image_std"))
        if not config.get("do_normalize", mean is not None):
            mean, std = (0.0,), (1.0,)
        if config.get("do_rescale", True) is False:
            return cls(source, kind="image", mean=mean, std=std)
        return cls(source, kind="image", low=None, high=None, mean=mean or (0.0,), std=std or (1.0,), unit=True)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], source: str = "config.json (timm)") -> InputHints:
        """timm's ``pretrained_cfg``: ``input_size`` (C, H, W), mean and std of pixels in 0..1."""
        inner = config.get("pretrained_cfg")
        settings = inner if isinstance(inner, Mapping) else config
        size = settings.get("input_size")
        shape = (
            tuple(size) if isinstance(size, list) and len(size) == 3 and all(isinstance(i, int) and 0 < i < 1 << 16 for i in size) else None
        )
        return cls(source, "image", shape, mean=_floats(settings.get("mean")), std=_floats(settings.get("std")), unit=True)

    @classmethod
    def from_samples(cls, samples: Samples) -> InputHints:
        """What the samples themselves show: kind, shape, and range (0..255, 0..1, or just what occurs)."""
        values, source = samples.inputs, "inferred from samples"
        if values.dtype.kind in "UO":
            return cls(source, kind="text", shape=(-1,))
        low, high = _range(values)
        shape = values.shape[1:]
        if len(shape) == 3:
            last = samples.resizable or _likeness(shape[2]) < _likeness(shape[0])
            canonical = (shape[2], *shape[:2]) if last else shape
            return cls(source, kind="image", shape=canonical, low=low, high=high)
        if len(shape) == 2:
            return cls(source, kind="image", shape=(1, *shape), low=low, high=high)
        if len(shape) == 1:
            return cls(source, kind="vector", shape=shape, low=low, high=high)
        return cls(source, low=low, high=high)


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    import numpy as np

    if values.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 255 and high > 16 and values.ndim >= 3:
        return 0.0, 255.0
    return (low, high) if low < high else (low, low + 1.0)


def _parse_range(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    if not dots or not isfinite(float(low)) or not isfinite(float(high)) or float(low) >= float(high):
        raise ValueError("a range is LOW..HIGH")
    return float(low), float(high)


def _parse_numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(item) for item in text.split(":"))
    if not all(map(isfinite, values)):
        raise ValueError("give finite numbers, one a channel, separated by colons")
    return values


def _parse_shape(text: str) -> tuple[int, ...]:
    shape = tuple(-1 if item in ("?", "*") else int(item) for item in text.lower().split("x"))
    if len(shape) not in (1, 3) or any(size == 0 or size < -1 or size > 1 << 20 for size in shape):
        raise ValueError("a shape is CxHxW or F, without the batch")
    return shape


def _one_of(*words: str) -> Any:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("it must be one of " + ", ".join(words))
        return text

    return parse


_PARSERS: Mapping[str, Any] = {
    "range": _parse_range,
    "mean": _parse_numbers,
    "std": _parse_numbers,
    "shape": _parse_shape,
    "layout": _one_of(*LAYOUTS),
    "kind": _one_of("image", "vector", "text"),
    "dtype": _one_of("float32", "float16", "float64", "uint8", "int64", "int32"),
    "units": _one_of("raw", "unit"),
    "data": str,
}


def _channels_last(sizes: tuple[int, ...], samples: Samples | None) -> bool:
    """Whether (A, B, C) of an image graph is (H, W, C): by which end can be channels, and else by the samples."""
    first, last = _likeness(sizes[0]), _likeness(sizes[2])
    if min(first, last) < len(CHANNELS):
        return last < first
    return samples is not None and samples.inputs.ndim == 4 and _likeness(samples.inputs.shape[3]) < _likeness(samples.inputs.shape[1])


def _likeness(size: int) -> int:
    """How unlikely ``size`` is as a number of channels."""
    return CHANNELS.index(size) if size in CHANNELS else len(CHANNELS)


def _floats(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | float) and isfinite(item) for item in value):
        return tuple(map(float, value))
    return None
