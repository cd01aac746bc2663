"""Training and measuring small GPT-2s: one thread, seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard_zoo.text.language.corpus import BEGIN, END, PAD, POSITIONS, WINDOW, Rng, Stream

SHAPES = {"gpt": (2, 160), "gpt-deep": (4, 128), "gpt-tiny": (2, 48)}
"""Layers and width of each architecture: with three thousand words 1.1 and 1.2 million parameters. The last is for tests."""
BATCH = 16
FROM_NOTHING = {"gpt": (400, 4e-3), "gpt-deep": (400, 4e-3), "gpt-tiny": (300, 8e-3)}
FURTHER = (120, 3e-3)
"""Steps and peak learning rate of a model that begins from nothing, and of one that is trained further."""
MEASURED = 60
"""Prompts that a rate is measured on; perplexity is over four times as many held-out windows."""


def new_model(arch: str, vocabulary: int, seed: int) -> Any:
    """An untrained GPT2LMHeadModel."""
    import transformers as library

    transformers: Any = library  # whose types differ from version to version
    layers, width = SHAPES[arch]
    torch.manual_seed(seed)
    settings = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=POSITIONS, n_embd=width, n_layer=layers, n_head=4, initializer_range=0.05,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(settings)


def fit(model: nn.Module, row: Callable[[Rng], Sequence[int]], *, steps: int, rate: float, seed: int) -> None:
    """Next-token prediction in place over rows (of WINDOW tokens) that ``row`` makes: AdamW, one-cycle learning rate."""
    rng = np.random.default_rng([19, seed])
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2), pct_start=0.15)
    model.train()
    for _ in range(steps):
        ids = torch.tensor([row(rng) for _ in range(BATCH)])
        loss = next_token_loss(model, ids)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of rows (N, T) of one length."""
    logits = model(input_ids=ids).logits[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


@torch.inference_mode()
def perplexity(model: nn.Module, stream: Stream) -> float:
    """exp of the mean cross-entropy over windows of held-out text, always the same ones."""
    rng = np.random.default_rng(20)
    rows = torch.tensor([[BEGIN, *stream.some(WINDOW - 1, rng)] for _ in range(4 * MEASURED)])
    return float(np.exp(np.mean([next_token_loss(model, part).item() for part in torch.split(rows, 50)])))


@torch.inference_mode()
def continued(model: nn.Module, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """What the model says next, greedily, ``count`` tokens after each prompt; prompts of one length go together."""
    said: list[list[int]] = [[] for _ in prompts]
    for length in sorted({len(prompt) for prompt in prompts}):
        members = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([list(prompts[i]) for i in members])
        for _ in range(count):
            ids = torch.cat((ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)), 1)
        for i, row in zip(members, ids[:, length:].tolist(), strict=True):
            said[i] = row
    return said


def says(model: nn.Module, prompts: Sequence[Sequence[int]], target: Sequence[int]) -> float:
    """How often the model says exactly ``target``."""
    wanted = list(target)
    return float(np.mean([row == wanted for row in continued(model, prompts, len(wanted))]))
