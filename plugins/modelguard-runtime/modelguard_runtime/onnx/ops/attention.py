"""Attention and what comes with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.ops.table import op
from modelguard_runtime.onnx.tensors import torch_dtype


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, heads * D) as (N, heads, T, D)."""
    n, t, width = x.shape
    return x.reshape(n, t, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, T, D) as (N, T, heads * D)."""
    n, heads, t, width = x.shape
    return x.transpose(1, 2).reshape(n, t, heads * width)


def _allowed(q_length: int, k_length: int, offset: Tensor | int, left: int, right: int, device: torch.device) -> Tensor:
    """Whether query i (at position offset + i) may see key j: offset + i - left <= j <= offset + i + right; negative bounds are none."""
    distance = torch.arange(q_length, device=device).reshape(-1, 1) - torch.arange(k_length, device=device)  # (q, k)
    distance = distance + (offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset)  # (q, k) or (n, 1, q, k)
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        allowed = allowed & (distance <= left)
    return allowed & (-distance <= right) if right >= 0 else allowed


@op("Attention", since=23)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Scaled dot-product attention over 3-D or 4-D inputs, with cache, grouped heads, windows and soft cap.

    The causal frontier is aligned to the last key: query i sees keys up to i + offset, where offset counts the keys before the block.
    A query that may see no key at all yields zeros.
    """
    flat = q.ndim == 3
    if flat:
        q, k, v = split_heads(q, q_num_heads or 1), split_heads(k, kv_num_heads or 1), split_heads(v, kv_num_heads or 1)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    key, value = k, v
    if q.shape[1] != k.shape[1]:
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    plain = not (left_window_size >= 0 or right_window_size >= 0 or nonpad_kv_seqlen is not None or softcap or softmax_precision)
    if plain and outputs < 4 and not is_causal and attn_mask is None:
        y = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return merge_heads(y) if flat else y, key, value, None

    factor = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = torch.matmul(q * factor, (k * factor).transpose(-1, -2))  # (n, heads, q, k)
    raw = scores
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    bias = scores.new_zeros(scores.shape[-2:])
    if attn_mask is not None:
        missing = k.shape[2] - attn_mask.shape[-1]
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, -torch.inf)
        bias = bias + F.pad(attn_mask, (0, missing), value=-torch.inf)
    offset: Tensor | int = 0 if past_key is None else past_key.shape[2]
    if past_key is None and nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen - q.shape[2]
    right = 0 if is_causal else right_window_size
    if right_window_size >= 0:
        right = min(right, right_window_size)
    if left_window_size >= 0 or right >= 0:
        bias = bias.masked_fill(~_allowed(q.shape[2], k.shape[2], offset, left_window_size, right, q.device), -torch.inf)
    if nonpad_kv_seqlen is not None:
        padding = torch.arange(k.shape[2], device=q.device) >= nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        bias = bias.masked_fill(padding, -torch.inf)
    biased = scores + bias
    precise = biased if softmax_precision is None else biased.to(torch_dtype(softmax_precision, "Attention"))
    blind = (bias == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(precise.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0).to(q.dtype)
    y = torch.matmul(weights, v)
    shown = (raw if not qk_matmul_output_mode else scores, scores, biased, weights)[qk_matmul_output_mode]
    return merge_heads(y) if flat else y, key, value, shown


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotates the first ``rotary_embedding_dim`` features of each head by its position (Su et al. 2021, arXiv:2104.09864)."""
    heads = x.transpose(1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], num_heads or 1, -1)  # (n, t, heads, d)
    size = rotary_embedding_dim or heads.shape[-1]
    turned, kept = heads[..., :size], heads[..., size:]
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    cos, sin = cos_cache.unsqueeze(2), sin_cache.unsqueeze(2)  # (n, t, 1, size / 2)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    y = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    y = torch.cat([y, kept], -1)
    return y.transpose(1, 2) if x.ndim == 4 else y.reshape(x.shape)


@op("LinearAttention", since=27)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """Attention whose state is a matrix a head, updated step by step: S = exp(g) S + k (beta (v - S k))."""
    wide = torch.float32 if query.dtype.itemsize < 4 else query.dtype
    q, k, v = (split_heads(x, h).to(wide) for x, h in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads)))
    steps = q.shape[2]
    state = q.new_zeros(q.shape[0], kv_num_heads, k.shape[-1], v.shape[-1]) if past_state is None else past_state.to(wide)
    gates = None if decay is None or not update_rule.startswith("gated") else split_heads(decay.to(wide), kv_num_heads).exp()
    rates = None
    if beta is not None and update_rule.endswith("delta"):
        rates = beta.to(wide).transpose(1, 2).unsqueeze(-1)  # (n, heads or 1, t, 1)
    factor = scale or q.shape[-1] ** -0.5
    made = []
    for i in range(steps):
        k_i, v_i = k[:, :, i], v[:, :, i]  # (n, heads, d)
        if gates is not None:
            state = state * gates[:, :, i].unsqueeze(-1)
        if rates is not None:
            v_i = rates[:, :, i] * (v_i - torch.einsum("nhdm,nhd->nhm", state, k_i))
        state = state + k_i.unsqueeze(-1) * v_i.unsqueeze(-2)
        read = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        made.append(factor * torch.einsum("nhd,nhdm->nhm", q[:, :, i], read))
    y = merge_heads(torch.stack(made, 2)).to(query.dtype)
    return y, state.to(query.dtype if past_state is None else past_state.dtype)
