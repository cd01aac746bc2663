"""Fourier transforms, windows, and the mel filter bank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import device_of, single
from modelguard_runtime.onnx.ops.table import op
from modelguard_runtime.onnx.tensors import torch_dtype

Number = int | float | Sequence[int] | Sequence[float]


def _transform(x: Tensor, axis: int, length: int | None, inverse: bool, onesided: bool) -> Tensor:
    """The last axis holds the real part, or real and imaginary parts."""
    signal = x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    axis = axis % x.ndim
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, n=2 * (signal.shape[axis] - 1) if length is None else length, dim=axis)
        return real.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal.to(torch.promote_types(x.dtype, torch.complex64)), n=length, dim=axis))
    if onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, n=length, dim=axis))
    result = torch.fft.fft(signal, n=length, dim=axis)
    return torch.view_as_real(result.narrow(axis, 0, result.shape[axis] // 2 + 1) if onesided else result)


@op("DFT", since=20, ints=("dft_length", "axis"))
def dft(x: Tensor, dft_length: Number | None = None, axis: Number = -2, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    length = None if dft_length is None else int(single(dft_length))
    check_elements("DFT", [*x.shape, length or 1])
    return _transform(x, int(single(axis)), length, bool(inverse), bool(onesided))


@op("DFT", since=17, ints=("dft_length",))
def dft_17(x: Tensor, dft_length: Number | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    return dft(x, dft_length, axis, inverse=inverse, onesided=onesided)


@op("STFT", since=17, ints=("frame_step", "frame_length"))
def stft(
    signal: Tensor, frame_step: Number, window: Tensor | None = None, frame_length: Number | None = None, *, onesided: int = 1
) -> Tensor:
    """(N, L, 1 or 2) to (N, frames, bins, 2)."""
    length = int(single(frame_length)) if frame_length is not None else window.shape[0] if window is not None else signal.shape[1]
    frames = signal.unfold(1, length, int(single(frame_step))).transpose(2, 3)  # (N, frames, length, parts)
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return _transform(frames, 2, None, False, bool(onesided))


def _window(size: Number, periodic: int, dtype: int, coefficients: Sequence[float], like: Tensor | None) -> Tensor:
    """A sum of cosines: ``sum_k c_k cos(2 pi k n / N)``."""
    count = int(single(size))
    check_elements("window", [count])
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64, device=device_of(like)) / max(count if periodic else count - 1, 1)
    value = sum((c * torch.cos(k * angle) for k, c in enumerate(coefficients)), torch.zeros_like(angle))
    return value.to(torch_dtype(dtype, "window"))


@op("HannWindow", since=17, ints=("size",))
def hann_window(size: Number, *, output_datatype: int = 1, periodic: int = 1, like: Tensor | None = None) -> Tensor:
    return _window(size, periodic, output_datatype, (0.5, -0.5), like)


@op("HammingWindow", since=17, ints=("size",))
def hamming_window(size: Number, *, output_datatype: int = 1, periodic: int = 1, like: Tensor | None = None) -> Tensor:
    return _window(size, periodic, output_datatype, (25 / 46, -21 / 46), like)


@op("BlackmanWindow", since=17, ints=("size",))
def blackman_window(size: Number, *, output_datatype: int = 1, periodic: int = 1, like: Tensor | None = None) -> Tensor:
    return _window(size, periodic, output_datatype, (0.42, -0.5, 0.08), like)


@op("MelWeightMatrix", since=17, ints=("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"))
def mel_weight_matrix(
    num_mel_bins: Number,
    dft_length: Number,
    sample_rate: Number,
    lower_edge_hertz: Number,
    upper_edge_hertz: Number,
    *,
    output_datatype: int = 1,
    like: Tensor | None = None,
) -> Tensor:
    """(dft_length / 2 + 1, num_mel_bins) triangles on the mel scale, their corners rounded down to bins."""
    bins, length = int(single(num_mel_bins)), int(single(dft_length))
    spectrum = length // 2 + 1
    check_elements("MelWeightMatrix", [spectrum, bins + 2])
    low, high = (2595 * math.log10(1 + single(edge) / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    mel = low + torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2))
    hertz = 700 * (10 ** (mel / 2595) - 1)
    corner = torch.floor((length + 1) * hertz / single(sample_rate))
    left, centre, right = corner[:-2], corner[1:-1], corner[2:]
    place = torch.arange(spectrum, dtype=torch.float64).unsqueeze(1)
    rising = torch.where(
        (place >= left) & (place <= centre) & (centre > left), (place - left) / (centre - left).clamp(min=1), torch.zeros(())
    )
    rising = torch.where((centre == left) & (place == centre), torch.ones(()), rising)
    falling = (right - place) / (right - centre).clamp(min=1)
    weights = torch.where((place >= centre) & (place < right) & (right > centre), falling, rising)
    return weights.to(device_of(like) or torch.device("cpu"), torch_dtype(output_datatype, "MelWeightMatrix"))
