"""What training does to weights: fine-tune steps, full or partial, and adapters merged back in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modelguard_zoo.edits.arrays import Array, Edit, Tensors, add_in_dtype, from_float, record
from modelguard_zoo.edits.lm import LanguageModel, as_torch, fit, forward

Factors = Mapping[str, tuple[Array, Array]]
"""Per tensor name (A, B) with update A @ B in the stored orientation: A (rows, r), B (r, columns)."""


def fine_tune(
    lm: LanguageModel,
    corpus: Array,
    *,
    steps: int = 30,
    rate: float = 1e-3,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Array], Edit]:
    """Real AdamW steps on ``corpus`` (N, T); only the tensors in ``names`` learn (default: all). Weights keep their dtype."""
    learnt = fit(lm.tensors, corpus, lm.heads, steps=steps, rate=rate, seed=seed, names=names)
    after = {name: from_float(array, lm.tensors[name].dtype) if array is not lm.tensors[name] else array for name, array in learnt.items()}
    family = "fine-tune" if names is None else "partial-fine-tune"
    return after, record(family, lm.tensors, after, steps=steps, rate=rate)


def train_lora(
    lm: LanguageModel, corpus: Array, names: Sequence[str], rank: int, *, steps: int = 40, rate: float = 1e-2, seed: int = 0
) -> dict[str, tuple[Array, Array]]:
    """Train a LoRA adapter (Hu et al. 2021: A random, B zero, W frozen) on ``corpus``; the factors of each named matrix, float32."""
    import torch
    import torch.nn.functional as F

    weights = as_torch(lm.tensors)
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            (torch.randn(weights[name].shape[0], rank, generator=generator) / rank**0.5).requires_grad_(),
            torch.zeros(rank, weights[name].shape[1], requires_grad=True),
        )
        for name in sorted(names)
    }
    optimizer = torch.optim.Adam([part for pair in factors.values() for part in pair], lr=rate)
    rng, data = np.random.default_rng(seed), torch.from_numpy(corpus)
    for _ in range(steps):
        rows = data[torch.from_numpy(rng.integers(0, len(corpus), 48))]
        adapted = {**weights, **{name: weights[name] + a @ b for name, (a, b) in factors.items()}}
        logits = forward(adapted, rows, lm.heads).logits[:, :-1]
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: (a.detach().numpy(), b.detach().numpy()) for name, (a, b) in factors.items()}


def merge_lora(tensors: Tensors, factors: Factors, scale: float = 1.0) -> tuple[dict[str, Array], Edit]:
    """W + scale·A B for every adapted matrix, in the file's dtype, as ``merge_and_unload`` does it."""
    after, ranks = dict(tensors), {}
    for name, (a, b) in factors.items():
        after[name] = add_in_dtype(tensors[name], (scale * (a @ b)).astype(np.float32))
        ranks[name] = a.shape[1]
    return after, record("lora", tensors, after, ranks=ranks, rank=max(ranks.values(), default=0), scale=scale)
