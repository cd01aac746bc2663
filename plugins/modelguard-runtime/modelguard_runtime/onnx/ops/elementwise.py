"""Arithmetic, comparisons, logic, bits, casts: operators that work element by element."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import Tensor

from modelguard_runtime.onnx.ops.base import WIDE, Number, straight_through, widening
from modelguard_runtime.onnx.ops.table import op
from modelguard_runtime.onnx.tensors import FLOAT8, NARROW_BITS, element_type, torch_dtype

AB = ("a", "b")


@op("Add", since=7, scalars=AB)
@widening
def add(a: Number, b: Number) -> Number:
    return a + b


@op("Sub", since=7, scalars=AB)
@widening
def sub(a: Number, b: Number) -> Number:
    return a - b


@op("Mul", since=7, scalars=AB)
@widening
def mul(a: Number, b: Number) -> Number:
    return a * b


@op("Div", since=7, scalars=AB)
@widening
def div(a: Number, b: Number) -> Number:
    """Integers are divided truncating towards zero."""
    x = a if isinstance(a, Tensor) else b
    if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()):
        return torch.div(torch.as_tensor(a), b, rounding_mode="trunc").to(x.dtype)
    return a / b


@op("Pow", since=7, scalars=("b",))
def power(a: Tensor, b: Number) -> Tensor:
    """The result has the type of the base."""
    if isinstance(b, Tensor) and b.dtype in WIDE:
        b = b.to(torch.int64)
    result = torch.pow(a, b)
    return result if result.dtype is a.dtype else result.to(a.dtype)


@op("Mod", since=10, scalars=("b",))
@widening
def mod(a: Tensor, b: Number, *, fmod: int = 0) -> Tensor:
    """``fmod`` takes the sign of the dividend, else the divisor's."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Max", since=8)
@widening
def maximum(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, xs)


@op("Min", since=8)
@widening
def minimum(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, xs)


@op("Sum", since=8)
def total(*xs: Tensor) -> Tensor:
    return functools.reduce(operator.add, xs)


@op("Mean", since=8)
def mean(*xs: Tensor) -> Tensor:
    return functools.reduce(operator.add, xs) / len(xs)


@op("Neg", since=6)
def neg(x: Tensor) -> Tensor:
    return -x


@op("Abs", since=6)
@widening
def absolute(x: Tensor) -> Tensor:
    return x.abs()


@op("Sign", since=9)
@widening
def sign(x: Tensor) -> Tensor:
    return x.sign()


def _unary(name: str, function: Any, since: int = 1) -> None:
    """An operator that is one torch function of one tensor."""

    def run(x: Tensor) -> Tensor:
        result: Tensor = function(x)
        return result

    run.__name__ = run.__qualname__ = name.lower()
    op(name, since=since)(run)


for _name, _function, _since in (
    ("Acos", torch.acos, 7), ("Acosh", torch.acosh, 9), ("Asin", torch.asin, 7), ("Asinh", torch.asinh, 9), ("Atan", torch.atan, 7),
    ("Atanh", torch.atanh, 9), ("Cos", torch.cos, 7), ("Cosh", torch.cosh, 9), ("Erf", torch.erf, 9),
    ("Exp", torch.exp, 6), ("Log", torch.log, 6), ("Reciprocal", torch.reciprocal, 6),
    ("Sin", torch.sin, 7), ("Sinh", torch.sinh, 9), ("Sqrt", torch.sqrt, 6), ("Tan", torch.tan, 7),
    ("IsNaN", torch.isnan, 9), ("Not", torch.logical_not, 1), ("Det", torch.linalg.det, 11),
):  # fmt: skip
    _unary(_name, _function, _since)


def _stepped(function: Any) -> Any:
    """A step function with the gradient of the ramp it follows: its own is zero everywhere, and one such node would hide all that lies
    before it from whoever searches by gradient."""

    def run(x: Tensor) -> Tensor:
        return straight_through(x, function(x))

    return run


for _name, _function, _since in (("Ceil", torch.ceil, 6), ("Floor", torch.floor, 6), ("Round", torch.round, 11)):
    _unary(_name, _stepped(_function), _since)


@op("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return x.isinf()
    if detect_positive:
        return x.isposinf()
    return x.isneginf() if detect_negative else torch.zeros_like(x, dtype=torch.bool)


@op("Clip", since=6, scalars=("min", "max"))
@widening
def clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        low = x if min is None else torch.maximum(x, torch.as_tensor(min, dtype=x.dtype, device=x.device))
        return low if max is None else torch.minimum(low, torch.as_tensor(max, dtype=x.dtype, device=x.device))
    return x if min is None and max is None else torch.clamp(x, min, max)


@op("Equal", since=7, scalars=AB)
@widening
def equal(a: Tensor, b: Number) -> Tensor:
    result: Tensor = a == b
    return result


@op("Less", since=7, scalars=AB)
@widening
def less(a: Tensor, b: Number) -> Tensor:
    return a < b


@op("LessOrEqual", since=12, scalars=AB)
@widening
def less_or_equal(a: Tensor, b: Number) -> Tensor:
    return a <= b


@op("Greater", since=7, scalars=AB)
@widening
def greater(a: Tensor, b: Number) -> Tensor:
    return a > b


@op("GreaterOrEqual", since=12, scalars=AB)
@widening
def greater_or_equal(a: Tensor, b: Number) -> Tensor:
    return a >= b


@op("And", since=7)
def logical_and(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_and(a, b)


@op("Or", since=7)
def logical_or(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_or(a, b)


@op("Xor", since=7)
def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_xor(a, b)


@op("Where", since=9)
@widening
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@op("BitwiseAnd", since=18)
@widening
def bitwise_and(a: Tensor, b: Tensor) -> Tensor:
    return a & b


@op("BitwiseOr", since=18)
@widening
def bitwise_or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


@op("BitwiseXor", since=18)
@widening
def bitwise_xor(a: Tensor, b: Tensor) -> Tensor:
    return a ^ b


@op("BitwiseNot", since=18)
@widening
def bitwise_not(x: Tensor) -> Tensor:
    return ~x


@op("BitShift", since=11)
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    x, by = a.to(torch.int64), b.to(torch.int64)
    return (x << by if direction == "LEFT" else x >> by).to(a.dtype)


@op("Cast", since=6)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Float to a narrow integer wraps; float to float8 saturates unless told not to."""
    dtype = torch_dtype(to, "Cast")
    if x.dtype is dtype and to not in NARROW_BITS:
        return x
    if to in NARROW_BITS:
        bits = NARROW_BITS[to]
        whole = x.to(torch.int64) & ((1 << bits) - 1)
        signed = dtype is torch.int8
        return (torch.where(whole >= 1 << (bits - 1), whole - (1 << bits), whole) if signed else whole).to(dtype)
    if to in FLOAT8:
        return _to_float8(x, dtype, bool(saturate))
    if x.is_floating_point() and not dtype.is_floating_point and dtype is not torch.bool and not dtype.is_complex:
        return x.to(torch.int64).to(dtype) if dtype is not torch.uint64 else x.to(dtype)
    return x.to(dtype)


def cast_through(x: Tensor, through: int, to: int) -> Tensor:
    """Two casts in a row, to the integers ``through`` and back to the floats ``to``. Integers carry no gradient; the pair can."""
    value = cast(cast(x, to=through), to=to)
    return straight_through(x, value) if x.is_floating_point() else value


def _to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    wide = x.to(torch.float32)
    largest = torch.finfo(dtype).max
    if saturate:
        return torch.where(wide.isnan(), wide, wide.clamp(-largest, largest)).to(dtype)
    if dtype is torch.float8_e4m3fn:  # which has no infinity: past half a step over the largest lies NaN
        wide = torch.where(wide.abs() > 464, torch.full_like(wide, torch.nan), wide)
    return wide.to(dtype)


@op("CastLike", since=15, typed="target_type")
def cast_like(x: Tensor, target_type: Tensor, *, saturate: int = 1, round_mode: str = "up", element: int = 0) -> Tensor:
    return cast(x, to=element or element_type(target_type.dtype), saturate=saturate)


@op("BitCast", since=26)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    dtype = torch_dtype(to, "BitCast")
    if dtype.itemsize != x.dtype.itemsize:
        raise ValueError(f"BitCast of {x.dtype} to {dtype}, which is of another width")
    return x.view(dtype)
