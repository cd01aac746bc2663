"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.table import op

Ints = Sequence[int]

CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(shape: Ints, kernel: Ints, strides: Ints, dilations: Ints, auto_pad: str) -> list[int]:
    """Pads, all beginnings then all ends, that make each output ``ceil(input / stride)``; the odd one at the end for SAME_UPPER."""
    begins, ends = [], []
    for size, k, s, d in zip(shape, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return begins + ends


def resolve_pads(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto_pad: str) -> list[int]:
    """The explicit pads of a convolution or pooling."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    return [0] * (2 * len(kernel)) if pads is None or auto_pad == "VALID" else list(pads)


def pad_last_first(pads: Ints) -> list[int]:
    """Pads in the order of ``F.pad``: begin and end of the last axis, then of the one before."""
    rank = len(pads) // 2
    return [amount for axis in range(rank - 1, -1, -1) for amount in (pads[axis], pads[axis + rank])]


@op("Conv")
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    rank = w.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    if pads is None or auto_pad != "NOTSET":
        pads = resolve_pads(x, w.shape[2:], strides, dilations, pads, auto_pad)
    begins, ends = pads[:rank], pads[rank:]
    check_elements("Conv", [*x.shape[:2], *(max(n + p + q, 0) for n, p, q in zip(x.shape[2:], begins, ends, strict=True))])
    if list(begins) != list(ends):
        x, begins = F.pad(x, pad_last_first(pads)), [0] * rank
    result: Tensor = CONV[rank](x, w, b, strides, begins, dilations, group)
    return result


@op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Computed in full, then cut (or filled with zeros) to the padding asked for where torch has no such padding."""
    rank = w.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = list(output_padding or [0] * rank)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)]
    begins, ends = list((pads or [0] * 2 * rank)[:rank]), list((pads or [0] * 2 * rank)[rank:])
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        target = output_shape[-rank:] if output_shape is not None else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        # An output longer than the full one is filled up at its end.
        total = [f + e - t for f, e, t in zip(full, extra, target, strict=True)]
        begins = [max(t, 0) // 2 if auto_pad == "SAME_UPPER" else max(t, 0) - max(t, 0) // 2 for t in total]
        ends = [t - p for t, p in zip(total, begins, strict=True)]
    channels = w.shape[1] * group
    check_elements(
        "ConvTranspose", [x.shape[0], channels, *(max(f, f + e - p - q) for f, e, p, q in zip(full, extra, begins, ends, strict=True))]
    )
    fits = all(0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if begins == ends and fits and min(begins, default=0) >= 0:
        result: Tensor = _TRANSPOSED[rank](x, w, b, strides, begins, extra, group, dilations)
        return result
    whole = _TRANSPOSED[rank](x, w, None, strides, 0, 0, group, dilations)
    cut: Tensor = F.pad(whole, pad_last_first([*(-p for p in begins), *(e - q for e, q in zip(extra, ends, strict=True))]))
    return cut if b is None else cut + b.reshape(-1, *[1] * rank)


@op("CausalConvWithState", since=27)
def causal_conv_with_state(
    x: Tensor, w: Tensor, b: Tensor | None = None, past_state: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution over (N, C, T) that sees the past only; returns the last k - 1 inputs as the next state."""
    past = x.new_zeros(*x.shape[:2], w.shape[2] - 1) if past_state is None else past_state
    padded = torch.cat([past, x], 2)
    y = F.conv1d(padded, w, b, groups=x.shape[1])
    return F.silu(y) if activation in ("silu", "swish") else y, padded[:, :, padded.shape[2] - (w.shape[2] - 1) :]


@op("Col2Im", since=18, ints=("image_shape", "block_shape"))
def col2im(
    x: Tensor, image_shape: Ints, block_shape: Ints, *, dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None
) -> Tensor:
    """Sums (N, C * block, L) columns into (N, C, *image); any number of spatial axes."""
    rank = len(image_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    begins, ends = list((pads or [0] * 2 * rank)[:rank]), list((pads or [0] * 2 * rank)[rank:])
    padded = [n + p + q for n, p, q in zip(image_shape, begins, ends, strict=True)]
    steps = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(padded, dilations, block_shape, strides, strict=True)]
    channels = x.shape[1] // prod(block_shape)
    check_elements("Col2Im", [x.shape[0], channels, *padded])
    # place[k, l]: where element k of block l lies in the padded image
    place = torch.zeros(1, 1, dtype=torch.int64)
    for k, s, d, n, size in zip(block_shape, strides, dilations, steps, padded, strict=True):
        line = torch.arange(k).reshape(-1, 1) * d + torch.arange(n) * s
        place = (place[:, None, :, None] * size + line[None, :, None, :]).reshape(place.shape[0] * k, -1)
    columns = x.reshape(x.shape[0], channels, -1)
    image = x.new_zeros(x.shape[0], channels, prod(padded))
    image = image.index_add(2, place.flatten().to(x.device), columns)
    image = image.reshape(x.shape[0], channels, *padded)
    for axis, (p, n) in enumerate(zip(begins, image_shape, strict=True)):
        image = image.narrow(axis + 2, p, n)
    return image
