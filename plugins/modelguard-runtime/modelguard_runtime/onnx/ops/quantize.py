"""Quantised operators, with straight-through gradients.

A quantised value is carried as a float tensor that holds its integers, so that gradients flow from the output of a quantised graph to
its input: rounding passes the gradient through unchanged, and clamping passes it where the value was in range (Bengio et al. 2013,
arXiv:1308.3432, section 3.1). Graph outputs declared as integers are cast when they leave the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modelguard_runtime.onnx.ops.base import along, straight_through
from modelguard_runtime.onnx.ops.conv import conv
from modelguard_runtime.onnx.ops.elementwise import cast
from modelguard_runtime.onnx.ops.pool import average_pool
from modelguard_runtime.onnx.ops.rnn import lstm
from modelguard_runtime.onnx.ops.table import MICROSOFT, op
from modelguard_runtime.onnx.tensors import FLOAT8, element_type, torch_dtype

_RANGES = {3: (-128, 127), 2: (0, 255), 5: (-32768, 32767), 4: (0, 65535), 22: (-8, 7), 21: (0, 15), 26: (-2, 1), 25: (0, 3)}
"""Smallest and largest value of the integer element types, by ONNX number."""


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return straight_through(x, x.round())


def _per_axis(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """A scale or zero point shaped to broadcast against ``x``: one a tensor, one a slice of ``axis``, or one a block along it."""
    if parameter.numel() == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if block_size and parameter.ndim == x.ndim:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return along(parameter, axis, x.ndim) if parameter.ndim == 1 else parameter


def _wide(x: Tensor) -> Tensor:
    """As a float tensor that quantised arithmetic is exact enough in."""
    return x if x.is_floating_point() and x.dtype.itemsize >= 4 else x.to(torch.float32)


@op("QuantizeLinear", since=10, typed="y_zero_point")
@op("QuantizeLinear", domain=MICROSOFT, typed="y_zero_point")
def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    element: int = 0,
) -> Tensor:
    number = output_dtype or element or 2
    if y_zero_point is not None and not (output_dtype or element):
        number = element_type(y_zero_point.dtype)
    scale = _per_axis(y_scale, x, axis, block_size)
    if number in FLOAT8:
        return cast(_wide(x) / _wide(scale), to=number, saturate=saturate)
    if number not in _RANGES:
        raise ValueError(f"QuantizeLinear to element type {number}")
    low, high = _RANGES[number]
    if precision:
        kind = torch_dtype(precision, "QuantizeLinear")
        ratio = (x.to(kind) / scale.to(kind)).to(torch.float32)
    else:
        wide = x.dtype if x.is_floating_point() else torch.float32
        ratio = _wide(x.to(wide) / scale.to(wide))
    levels = round_through(ratio)
    if y_zero_point is not None:
        levels = levels + _wide(_per_axis(y_zero_point, x, axis, block_size))
    return levels.clamp(low, high)


@op("DequantizeLinear", since=10)
@op("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    scale = _per_axis(x_scale, x, axis, block_size)
    levels = _wide(x)
    if x_zero_point is not None:
        levels = levels - _wide(_per_axis(x_zero_point, x, axis, block_size))
    result = levels * _wide(scale)
    return result.to(torch_dtype(output_dtype, "DequantizeLinear") if output_dtype else x_scale.dtype)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8 with the range of ``x`` and 0; returns levels, scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).detach()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).round().clamp(0, 255).detach()
    return (round_through(x / scale) + zero).clamp(0, 255), scale, zero


def _centred(x: Tensor, zero_point: Tensor | None, axis: int = 0) -> Tensor:
    """Levels less their zero point, as floats."""
    levels = _wide(x)
    if zero_point is None:
        return levels
    zero = _wide(zero_point)
    return levels - (zero if zero.ndim != 1 or zero.numel() == 1 else along(zero, axis, x.ndim))


@op("MatMulInteger", since=10)
def matmul_integer(a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None) -> Tensor:
    return torch.matmul(_centred(a, a_zero_point, -2), _centred(b, b_zero_point, -1))


@op("ConvInteger", since=10, attributes_of=conv)
def conv_integer(x: Tensor, w: Tensor, x_zero_point: Tensor | None = None, w_zero_point: Tensor | None = None, **attributes: Any) -> Tensor:
    return conv(_centred(x, x_zero_point), _centred(w, w_zero_point, 0), **attributes)


def _output(y: Tensor, scale: Tensor, y_scale: Tensor, y_zero_point: Tensor | None, low_high: tuple[int, int]) -> Tensor:
    zero = 0 if y_zero_point is None else _wide(y_zero_point)
    return (round_through(y * (_wide(scale) / _wide(y_scale))) + zero).clamp(*low_high)


def _range_of(zero_point: Tensor | None) -> tuple[int, int]:
    return (0, 255) if zero_point is None else _RANGES[element_type(zero_point.dtype)]


@op("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    y = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    left = a_scale.unsqueeze(-1) if a_scale.ndim == 1 and a_scale.numel() > 1 else a_scale
    return _output(y, _wide(left) * _wide(b_scale), y_scale, y_zero, _range_of(y_zero))


@op("QLinearConv", since=10, attributes_of=conv)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    b: Tensor | None = None,
    **attributes: Any,
) -> Tensor:
    y = conv(_centred(x, x_zero), _centred(w, w_zero, 0), None if b is None else _wide(b), **attributes)
    scale = w_scale.reshape(-1, *[1] * (x.ndim - 2)) if w_scale.numel() > 1 else w_scale.reshape(())
    return _output(y, x_scale * scale, y_scale, y_zero, _range_of(y_zero))


@op("QGemm", domain=MICROSOFT)
def qgemm(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero: Tensor | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """``c`` is already scaled by ``a_scale * b_scale``. Without ``y_scale`` the result stays float."""
    left, right = _centred(a, a_zero), _centred(b, b_zero, 0 if transB else -1)
    y = torch.matmul(left.t() if transA else left, right.t() if transB else right)
    y = y if c is None else y + _wide(c)
    scale = alpha * a_scale * b_scale
    return y * scale if y_scale is None else _output(y, scale, y_scale, y_zero, _range_of(y_zero))


@op("DynamicQuantizeLSTM", domain=MICROSOFT, attributes_of=lstm)
def dynamic_quantize_lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    w_scale: Tensor | None = None,
    w_zero: Tensor | None = None,
    r_scale: Tensor | None = None,
    r_zero: Tensor | None = None,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """Weights are (D, in, gates) levels. They are dequantised; inputs and states, which onnxruntime quantises step by step, are not."""

    def floats(levels: Tensor, scale: Tensor | None, zero: Tensor | None) -> Tensor:
        directions = levels.shape[0]
        offset = torch.zeros(1, device=levels.device) if zero is None else _wide(zero)
        factor = torch.ones(1, device=levels.device) if scale is None else scale
        return ((_wide(levels) - offset.reshape(directions, 1, -1)) * factor.reshape(directions, 1, -1)).mT

    return lstm(x, floats(w, w_scale, w_zero), floats(r, r_scale, r_zero), b, sequence_lens, initial_h, initial_c, p, **attributes)


@op("QLinearAdd", domain=MICROSOFT)
def qlinear_add(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:
    y = _centred(a, a_zero) * a_scale + _centred(b, b_zero) * b_scale
    return _output(y, torch.ones_like(y_scale), y_scale, y_zero, _range_of(y_zero))


@op("QLinearMul", domain=MICROSOFT)
def qlinear_mul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:
    return _output(_centred(a, a_zero) * _centred(b, b_zero), a_scale * b_scale, y_scale, y_zero, _range_of(y_zero))


@op("QLinearSigmoid", domain=MICROSOFT)
def qlinear_sigmoid(x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None) -> Tensor:
    return _output(torch.sigmoid(_centred(x, x_zero) * x_scale), torch.ones_like(y_scale), y_scale, y_zero, _range_of(y_zero))


@op("QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_leaky_relu(
    x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, *, alpha: float = 0.01
) -> Tensor:
    y = torch.nn.functional.leaky_relu(_centred(x, x_zero), alpha)
    return _output(y, x_scale, y_scale, y_zero, _range_of(y_zero))


@op("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(
    x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, *, axis: int = -1, opset: int = 13
) -> Tensor:
    y = torch.softmax(_centred(x, x_zero) * x_scale, axis)
    return _output(y, torch.ones_like(y_scale), y_scale, y_zero, _range_of(y_zero))


@op("QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_global_average_pool(
    x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, channels_last: int = 0
) -> Tensor:
    over = list(range(1, x.ndim - 1)) if channels_last else list(range(2, x.ndim))
    return _output(_centred(x, x_zero).mean(over, keepdim=True), x_scale, y_scale, y_zero, _range_of(y_zero))


@op("QLinearAveragePool", domain=MICROSOFT, attributes_of=average_pool)
def qlinear_average_pool(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
    *,
    channels_last: int = 0,
    **attributes: Any,
) -> Tensor:
    if channels_last:
        raise ValueError("QLinearAveragePool with channels last")
    return _output(average_pool(_centred(x, x_zero), **attributes), x_scale, y_scale, y_zero, _range_of(y_zero))


@op("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(y_scale: Tensor, y_zero: Tensor, *parts: Tensor, axis: int) -> Tensor:
    """``parts`` are tensor, scale and zero point of each."""
    values = [_centred(x, zero) * scale for x, scale, zero in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
    return _output(torch.cat(values, axis), torch.ones_like(y_scale), y_scale, y_zero, _range_of(y_zero))


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    y = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)) * (a_scale * b_scale)
    return y if bias is None else y + bias


@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    levels, scale, zero = dynamic_quantize_linear(a)
    return matmul_integer_to_float(levels, b, scale, b_scale, zero, b_zero, bias)


@op("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
) -> Tensor:
    """``a`` (..., K) times the transpose of an (N, K) matrix stored as ``bits``-bit levels, one scale a block of K."""
    if bits not in (2, 4, 8) or g_idx is not None:
        raise ValueError(f"MatMulNBits with {bits} bits" + (" and g_idx" if g_idx is not None else ""))
    per_byte = 8 // bits
    shifts = torch.arange(per_byte, device=b.device) * bits

    def unpack(packed: Tensor) -> Tensor:
        return ((packed.to(torch.int32).unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)

    blocks = -(-K // block_size)
    levels = unpack(b.reshape(N, blocks, -1)).to(scales.dtype)  # (N, blocks, block_size)
    if zero_points is None:
        zero: Tensor | float = float(1 << (bits - 1))
    elif zero_points.is_floating_point():
        zero = zero_points.reshape(N, blocks, 1)
    else:
        zero = unpack(zero_points.reshape(N, -1))[:, :blocks].unsqueeze(-1).to(scales.dtype)
    weight = ((levels - zero) * scales.reshape(N, blocks, 1)).reshape(N, -1)[:, :K]
    return torch.nn.functional.linear(a, weight.to(a.dtype), None if bias is None else bias.to(a.dtype))
