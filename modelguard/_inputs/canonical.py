"""How samples become canonical raw inputs of a model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from modelguard.errors import SamplesError
from modelguard.model import InputSpec, Samples

if TYPE_CHECKING:
    import numpy.typing as npt

SLACK = 1e-3
"""By how much of its range a sample value may lie outside it (resampled images overshoot a little)."""


def canonical_inputs(samples: Samples, spec: InputSpec) -> npt.NDArray[Any]:
    """The samples as canonical raw inputs: (N, C, H, W) or (N, F) float32 within ``spec``'s range, token ids (N, T) int64.

    Raises :class:`SamplesError` when shape or range do not fit.
    """
    import numpy as np

    values = samples.inputs
    if spec.kind == "text":
        if values.ndim != 2 or values.dtype.kind not in "iu":
            raise SamplesError(
                samples.origin, f"holds {_shown(values)}, not token ids (N, T)", "give whole numbers, or text and a tokenizer"
            )
        if len(values) and not spec.low <= values.min() <= values.max() <= spec.high:
            raise SamplesError(samples.origin, f"has token ids outside 0..{spec.high:g}", "use the model's own tokenizer")
        return values.astype(np.int64)
    if values.dtype.kind not in "fiub":
        raise SamplesError(samples.origin, f"holds {_shown(values)}, not numbers", f"this model takes {spec.kind} inputs")
    if spec.kind == "image" and samples.resizable:
        values = _resize(values, spec)
    arranged = _arrange(values, spec)
    if arranged is None:
        wanted = "x".join("?" if size < 0 else str(size) for size in spec.shape)
        raise SamplesError(samples.origin, f"has samples of shape {_shape(values)}, the model takes {wanted}", "give samples of that shape")
    result = np.ascontiguousarray(arranged, dtype=np.float32)
    if values.dtype == np.uint8 and spec.high <= 1:
        result /= 255.0  # whole pixels for a model whose raw domain is 0..1
    check_range(result, spec, samples.origin)
    return np.clip(result, spec.low, spec.high)


def check_range(values: npt.NDArray[Any], spec: InputSpec, origin: str) -> None:
    """Raise :class:`SamplesError` when a value is not finite or lies outside the raw range."""
    import numpy as np

    if values.size == 0:
        raise SamplesError(origin, "holds no sample", "give at least one")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SamplesError(origin, "holds values that are not finite", "remove them")
    slack = SLACK * (spec.high - spec.low)
    if low < spec.low - slack or high > spec.high + slack:
        raise SamplesError(
            origin, f"has values {low:g}..{high:g}, the model's raw range is {spec.low:g}..{spec.high:g}", "say --input range=LOW..HIGH"
        )


def _arrange(values: npt.NDArray[Any], spec: InputSpec) -> npt.NDArray[Any] | None:
    """The samples with their axes in canonical order, or None when no order of them is the model's shape."""
    if spec.kind == "vector":
        width = spec.shape[0]
        flat = values.reshape(len(values), prod(values.shape[1:]))
        return flat if width in (-1, flat.shape[1]) else None
    channels, height, width = spec.shape

    def fits(shape: tuple[int, ...]) -> bool:
        return all(want in (-1, have) for want, have in zip((channels, height, width), shape, strict=True))

    if values.ndim == 3 and channels in (1, -1):
        values = values[:, None]
    if values.ndim == 2 and min(height, width) > 0 and values.shape[1] == abs(channels) * height * width:
        return values.reshape(len(values), abs(channels), height, width)
    if values.ndim != 4:
        return None
    first, last = values.shape[1:], (values.shape[3], *values.shape[1:3])
    if fits(first) and not (channels < 0 and values.shape[3] in (1, 3)):
        return values
    return values.transpose(0, 3, 1, 2) if fits(last) else None


def _resize(values: npt.NDArray[Any], spec: InputSpec) -> npt.NDArray[Any]:
    """Images (N, H, W, C) of natural size, brought to the model's height and width by bilinear resampling."""
    import numpy as np

    height, width = spec.shape[1:]
    if min(height, width) < 0 or values.shape[1:3] == (height, width):
        return values
    from PIL import Image

    resized = [np.asarray(Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BILINEAR)) for image in values]
    stacked = np.stack(resized)
    return stacked if stacked.ndim == 4 else stacked[..., None]


def _shape(values: npt.NDArray[Any]) -> str:
    return "x".join(map(str, values.shape[1:])) or "()"


def _shown(values: npt.NDArray[Any]) -> str:
    return f"{values.dtype} of shape {tuple(values.shape)}"
