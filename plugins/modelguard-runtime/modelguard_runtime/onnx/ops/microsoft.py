"""``com.microsoft``: what onnxruntime's optimiser fuses, written out again in torch's own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.ops import attention as standard
from modelguard_runtime.onnx.ops.activation import swish
from modelguard_runtime.onnx.ops.attention import merge_heads, split_heads
from modelguard_runtime.onnx.ops.conv import conv
from modelguard_runtime.onnx.ops.index import gather
from modelguard_runtime.onnx.ops.linear import gemm
from modelguard_runtime.onnx.ops.table import MICROSOFT, ONNX, op


@op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """``transBatch`` moves the first axis behind the batch: (M, ..., K) stands for (..., M, K)."""
    if transBatchA:
        a = a.movedim(0, -2)
    if transBatchB:
        b = b.movedim(0, -2)
    y = torch.matmul(a.mT if transA and a.ndim > 1 else a, b.mT if transB and b.ndim > 1 else b)
    return y if alpha == 1.0 else alpha * y


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "LeakyRelu": F.leaky_relu,
    "HardSigmoid": lambda x, a=0.2, b=0.5: (a * x + b).clamp(0, 1), "Clip": torch.clamp,
}  # fmt: skip


@op("FusedConv", domain=MICROSOFT, attributes_of=conv)
def fused_conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    z: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **attributes: Any,
) -> Tensor:
    y = conv(x, w, b, **attributes)
    y = y if z is None else y + z
    return _ACTIVATIONS[activation](y, *activation_params) if activation else y


@op("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    activation: str = "Relu",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    parameters = [v for v in (activation_alpha, activation_beta) if v is not None]
    return _ACTIVATIONS[activation](gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB), *parameters)


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return swish(x, alpha=alpha)


@op("BiasAdd", domain=MICROSOFT)
def bias_add(x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


def _statistics(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.to(torch.float32), -1, correction=0, keepdim=True)
    return mean, torch.rsqrt(var + epsilon)


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    total = x + skip if bias is None else x + skip + bias
    return F.layer_norm(total, gamma.shape, gamma, beta, epsilon), *_statistics(total, epsilon), total


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    total = x + skip if bias is None else x + skip + bias
    return F.rms_norm(total, gamma.shape, gamma, epsilon), None, None, total


@op("SimplifiedLayerNormalization", domain=ONNX)
@op("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified_layer_normalization(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    return F.rms_norm(x, x.shape[axis % x.ndim :], scale, epsilon)


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Tensor,
    position_embedding: Tensor,
    segment_embedding: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Also returns the number of tokens of each sample, and the sum before normalisation."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
    total = gather(word_embedding, input_ids) + gather(position_embedding, positions)
    if segment_ids is not None and segment_embedding is not None:
        total = total + gather(segment_embedding, segment_ids)
    lengths = input_ids.new_zeros(input_ids.shape[0]) if mask is None else mask.sum(1)
    return F.layer_norm(total, gamma.shape, gamma, beta, epsilon), lengths.to(torch.int32), total


def _key_mask(mask: Tensor | None, n: int, keys: int, fill: float, like: Tensor) -> Tensor | None:
    """An additive (n, 1, 1 or queries, keys) bias out of the masks these operators take: lengths (n,), or 1 = visible."""
    if mask is None:
        return None
    if mask.ndim == 1:
        if mask.shape[0] != n:
            raise ValueError("attention mask with end and start positions")
        visible = torch.arange(keys, device=mask.device) < mask.reshape(-1, 1)
    else:
        visible = mask != 0
    visible = visible.reshape(n, 1, -1, keys)
    return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill(~visible, fill)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    causal: int,
    fill: float,
) -> Tensor:
    """(N, heads, T, D) attention, heads merged, with the keys ``past`` among ``k``, a mask of keys and an additive bias. Masked scores get
    ``fill`` rather than minus infinity."""
    offset = 0 if past is None else past.shape[-2]
    hidden = _key_mask(mask, q.shape[0], k.shape[2], fill, q)
    if hidden is not None:
        bias = hidden if bias is None else hidden + bias
    scores = torch.matmul(q, k.mT) * (scale or q.shape[-1] ** -0.5)
    if causal:
        distance = torch.arange(q.shape[2], device=q.device).reshape(-1, 1) + offset - torch.arange(k.shape[2], device=q.device)
        scores = scores.masked_fill(distance < 0, fill)
    return merge_heads(torch.matmul(torch.softmax(scores if bias is None else scores + bias, -1), v))


@op("Attention", domain=MICROSOFT)
def attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    qkv_hidden_sizes: Sequence[int] | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Tensor, Tensor]:
    """Self-attention with the three projections inside; ``past`` and the second output are (2, N, heads, T, D)."""
    if do_rotary:
        raise ValueError("Attention with rotary embedding inside")
    projected = torch.matmul(x, weights) if bias is None else torch.matmul(x, weights) + bias
    sizes = list(qkv_hidden_sizes or [projected.shape[-1] // 3] * 3)
    q, k, v = (split_heads(part, num_heads) for part in torch.split(projected, sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    present = torch.stack([k, v]) if k.shape == v.shape else k
    return _attend(q, k, v, past, mask_index, attention_bias, scale, unidirectional, mask_filter_value), present


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value apart, or packed in one (N, T, heads, 3, D)."""
    if key is None or value is None:
        if query.ndim != 5:
            raise ValueError("MultiHeadAttention with packed keys and values")
        q, k, v = (part.flatten(2) for part in query.unbind(3))
    else:
        q, k, v = query, key, value
    if bias is not None:
        bq, bk, bv = torch.split(bias, [q.shape[-1], q.shape[-1], bias.shape[0] - 2 * q.shape[-1]])
        q = q + bq
        k = k + (bk if k.ndim == 3 else bk.reshape(num_heads, 1, -1))
        v = v + (bv if v.ndim == 3 else bv.reshape(num_heads, 1, -1))
    q, k, v = (split_heads(part, num_heads) if part.ndim == 3 else part for part in (q, k, v))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    return _attend(q, k, v, past_key, key_padding_mask, attention_bias, scale, unidirectional, mask_filter_value), k, v


@op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(
    x: Tensor,
    position_ids: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """A single position id is where the first token stands."""
    if position_ids.numel() == 1:
        length = x.shape[2] if x.ndim == 4 else x.shape[1]
        position_ids = (position_ids.reshape(()) + torch.arange(length, device=x.device)).expand(x.shape[0], -1)
    heads = num_heads if num_heads or x.ndim == 4 else x.shape[-1] // (2 * cos_cache.shape[-1])
    return standard.rotary_embedding(
        x, cos_cache, sin_cache, position_ids, interleaved=interleaved, num_heads=heads, rotary_embedding_dim=rotary_embedding_dim
    )


@op("GroupNorm", domain=MICROSOFT)
def group_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, *, activation: int = 0, channels_last: int = 1, epsilon: float = 1e-5, groups: int
) -> Tensor:
    y = F.group_norm(x.movedim(-1, 1) if channels_last else x, groups, gamma, beta, epsilon)
    y = F.silu(y) if activation else y
    return y.movedim(1, -1) if channels_last else y


@op("NhwcConv", domain=MICROSOFT, attributes_of=conv)
def nhwc_conv(x: Tensor, w: Tensor, b: Tensor | None = None, **attributes: Any) -> Tensor:
    return conv(x.movedim(-1, 1), w.movedim(-1, 1), b, **attributes).movedim(1, -1)
