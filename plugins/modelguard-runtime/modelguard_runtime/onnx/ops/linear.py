"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.ops.base import widening
from modelguard_runtime.onnx.ops.table import op


@op("MatMul")
@widening
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    if alpha == 1.0 and not transA and a.is_floating_point() and (c is None or (beta == 1.0 and c.ndim == 1)):
        return F.linear(a, b if transB else b.t(), c)
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    if alpha != 1.0:
        product = alpha * product
    if c is not None:
        product = product + (c if beta == 1.0 else beta * c)
    return product.to(a.dtype)


@op("Einsum", since=12)
def einsum(*xs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *xs)
