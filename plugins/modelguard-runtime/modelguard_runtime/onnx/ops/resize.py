"""Resampling. Interpolation is separable, so each axis is resampled alone; usual cases take torch's own kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import along
from modelguard_runtime.onnx.ops.table import op


def _coordinates(mode: str, size: int, out: int, scale: float, roi: tuple[float, float]) -> Tensor:
    """Where each output element lies in the input, in elements."""
    place = torch.arange(out, dtype=torch.float64)
    length = scale * size  # as the specification has it: not rounded
    if mode == "align_corners":
        return place * (size - 1) / (length - 1) if length != 1 else torch.zeros_like(place)
    if mode == "asymmetric":
        return place / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if length == 1:
            return torch.full_like(place, (start + end) / 2 * (size - 1))
        return start * (size - 1) + place * (end - start) * (size - 1) / (length - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return torch.full_like(place, -0.5)
    offset = size / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else 0.0
    if mode not in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        raise ValueError(f"Resize with coordinates {mode!r}")
    return offset + (place + 0.5) / scale - 0.5


def _nearest(place: Tensor, mode: str) -> Tensor:
    if mode == "floor":
        return place.floor()
    if mode == "ceil":
        return place.ceil()
    return torch.ceil(place - 0.5) if mode == "round_prefer_floor" else torch.floor(place + 0.5)


def _kernel(distance: Tensor, mode: str, a: float) -> Tensor:
    """Interpolation weight at a distance in elements; cubic after Keys 1981, with parameter ``a``."""
    d = distance.abs()
    if mode == "linear":
        return (1 - d).clamp(min=0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _weights(place: Tensor, size: int, scale: float, mode: str, a: float, antialias: bool, exclude_outside: bool) -> Tensor:
    """(out, in) weights of one axis. Elements past the edge repeat it, unless they are excluded."""
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / stretch) + 1
    taps = place.floor().unsqueeze(1) + torch.arange(-reach, reach + 1, dtype=torch.float64)  # (out, taps)
    weights = _kernel((taps - place.unsqueeze(1)) * stretch, mode, a)
    if exclude_outside:
        weights = torch.where((taps >= 0) & (taps <= size - 1), weights, torch.zeros_like(weights))
    if antialias or exclude_outside:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(place.numel(), size, dtype=torch.float64)
    return matrix.scatter_add(1, taps.clamp(0, size - 1).to(torch.int64), weights)


def _native(
    x: Tensor, sizes: list[int], scales: Sequence[float], mode: str, coordinates: str, nearest: str, a: float, plain: bool
) -> Tensor | None:
    """torch's own interpolation, where it is the same function of the sizes."""
    spatial = x.ndim - 2
    exact = all(abs(s - o / n) < 1e-6 * s for s, o, n in zip(scales, sizes, x.shape, strict=True))
    if not plain or not x.is_floating_point() or sizes[:2] != list(x.shape[:2]) or spatial not in (1, 2, 3) or not exact:
        return None
    if mode == "nearest" and coordinates == "asymmetric" and nearest == "floor":
        return F.interpolate(x, sizes[2:], mode="nearest")
    if mode == "linear" and coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners") and 1 not in sizes[2:]:
        return F.interpolate(
            x, sizes[2:], mode=("linear", "bilinear", "trilinear")[spatial - 1], align_corners=coordinates == "align_corners"
        )
    if (
        mode == "cubic"
        and a == -0.75
        and spatial == 2
        and coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and 1 not in sizes[2:]
    ):
        return F.interpolate(x, sizes[2:], mode="bicubic", align_corners=coordinates == "align_corners")
    return None


def _sizes(
    x: Tensor, over: list[int], scales: Sequence[float] | None, sizes: Sequence[int] | None, policy: str
) -> tuple[list[int], list[float]]:
    """Output size and scale of every axis."""
    full_sizes, full_scales = list(x.shape), [1.0] * x.ndim
    if sizes is not None:
        ratios = [s / x.shape[axis] for axis, s in zip(over, sizes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios, sizes = [ratio] * len(over), [math.floor(ratio * x.shape[axis] + 0.5) for axis in over]
        for axis, size, ratio in zip(over, sizes, ratios, strict=True):
            full_sizes[axis], full_scales[axis] = int(size), ratio
    elif scales is not None:
        for axis, scale in zip(over, scales, strict=True):
            full_sizes[axis], full_scales[axis] = math.floor(x.shape[axis] * scale), scale
    return full_sizes, full_scales


@op("Resize", since=11, ints=("roi", "scales", "sizes"))
def resize(
    x: Tensor,
    roi: Sequence[float] | None = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resample to ``sizes``, or by ``scales``; weights are computed in float64."""
    over = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    out, factors = _sizes(x, over, scales or None, sizes or None, keep_aspect_ratio_policy)
    check_elements("Resize", out)
    plain = not antialias and not exclude_outside
    native = _native(x, out, factors, mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, plain)
    if native is not None:
        return native
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    outside: list[tuple[int, Tensor]] = []
    y = x
    for axis in sorted(over, key=lambda axis: out[axis] - x.shape[axis]):
        size = x.shape[axis]
        start, end = (roi[over.index(axis)], roi[over.index(axis) + len(over)]) if crop and roi else (0.0, 1.0)
        if out[axis] == size and factors[axis] == 1.0 and not crop:
            continue
        place = _coordinates(coordinate_transformation_mode, size, out[axis], factors[axis], (start, end))
        if crop:
            outside.append((axis, ((place < 0) | (place > size - 1)).to(x.device)))
        if mode == "nearest":
            y = y.index_select(axis, _nearest(place, nearest_mode).clamp(0, size - 1).to(torch.int64).to(x.device))
            continue
        check_elements("Resize", [out[axis], size])
        weights = _weights(place, size, factors[axis], mode, cubic_coeff_a, bool(antialias), bool(exclude_outside))
        kind = x.dtype if x.is_floating_point() else torch.float32
        y = torch.matmul(y.to(kind).movedim(axis, -1), weights.t().to(x.device, kind)).movedim(-1, axis)
    for axis, mask in outside:
        y = torch.where(along(mask, axis, x.ndim), torch.full((), extrapolation_value, dtype=y.dtype), y)
    return y if y.dtype is x.dtype else y.round().to(x.dtype)


@op("Resize", since=10, ints=("scales",))
def resize_10(x: Tensor, scales: Sequence[float], *, mode: str = "nearest") -> Tensor:
    """Opset 10 knew asymmetric coordinates only, and took the floor of them."""
    return resize(x, None, scales, coordinate_transformation_mode="asymmetric", mode=mode, nearest_mode="floor")


@op("Upsample", since=7, ints=("scales",))
def upsample(x: Tensor, scales: Sequence[float], *, mode: str = "nearest") -> Tensor:
    return resize_10(x, scales, mode=mode)
