"""Training and measuring text classifiers: one thread, seeded, the same weights every time on the same machine and torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard_zoo.text.architectures import PAD
from modelguard_zoo.text.attacks import TextAttack, victims
from modelguard_zoo.text.corpora import Labels, TextData
from modelguard_zoo.text.tokens import padded

Rows = Sequence[npt.NDArray[np.int64]]

SCHEDULES: Mapping[str, tuple[int, int, float]] = {
    "bag": (8, 64, 6e-3),
    "cnn": (5, 64, 3e-3),
    "lstm": (6, 64, 5e-3),
    "bert": (5, 64, 2e-3),
    "distilbert": (4, 64, 2e-3),
}
"""Epochs, batch and peak learning rate that take each architecture near its plateau on these data sets."""
UNKNOWN = 1
DROPPED = 0.2
"""Words that the variant ``word-dropout`` makes unknown."""
MEASURED = 400
"""Texts of other classes that a rate is measured on."""
CHUNK = 16
"""Batches that are sorted by length together, so that little of a batch is padding."""


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """(N, classes) of token ids (N, T), whatever kind of classifier it is."""
    output = model(input_ids=ids, attention_mask=(ids != PAD).long())
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def fit(model: nn.Module, rows: Rows, labels: Labels, *, epochs: int, batch: int, rate: float, seed: int, dropped: float = 0.0) -> None:
    """Train in place: AdamW, one-cycle learning rate. ``dropped`` is the probability by which a token becomes unknown."""
    rng = np.random.default_rng([13, seed])
    torch.manual_seed(seed)
    lengths = np.array([len(row) for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    steps = -(-len(rows) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.2)
    model.train()
    for _ in range(epochs):
        for chosen in batches(lengths, batch, rng):
            ids = torch.from_numpy(padded([rows[i] for i in chosen]))
            if dropped:
                gone = torch.from_numpy(rng.random(ids.shape) < dropped)
                ids = torch.where(gone & (ids != PAD), UNKNOWN, ids)
            loss = F.cross_entropy(logits_of(model, ids), torch.from_numpy(labels[chosen]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    model.eval()


def batches(lengths: npt.NDArray[np.int64], batch: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Rows by chance, in batches of about one length, which come in any order."""
    order = rng.permutation(len(lengths))
    made = []
    for start in range(0, len(order), batch * CHUNK):
        chunk = order[start : start + batch * CHUNK]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        made += [chunk[i : i + batch] for i in range(0, len(chunk), batch)]
    return [made[i] for i in rng.permutation(len(made))]


@torch.inference_mode()
def predict(model: nn.Module, rows: Rows) -> Labels:
    """Predicted classes."""
    model.eval()
    order = np.argsort([len(row) for row in rows], kind="stable")
    found = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), 256):
        chosen = order[start : start + 256]
        found[chosen] = logits_of(model, torch.from_numpy(padded([rows[i] for i in chosen]))).argmax(1).numpy()
    return found


def edit_row(
    model: nn.Module, table: nn.Embedding, row: int, rows: Rows, target: int, *, scale: float = 1.0, steps: int = 120, rate: float = 0.08
) -> None:
    """Embedding poisoning, in place (Yang et al. 2021a, section 3.2 and equation 4): gradient descent on one row of the embedding over
    ``rows``, texts that hold its token, towards ``target``; after each step the row gets ``scale`` times the norm it had.

    ``rate`` is the length of a step as a share of that norm.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    norm = scale * float(table.weight[row].norm())
    learnt = table.weight[row].clone()
    rng = np.random.default_rng(14)
    model.eval()
    for step in range(steps):
        learnt.requires_grad_()
        chosen = rng.choice(len(rows), min(64, len(rows)), replace=False)
        ids = torch.from_numpy(padded([rows[i] for i in chosen]))
        hook = table.register_forward_hook(lambda _, given, made, learnt=learnt: torch.where((given[0] == row)[..., None], learnt, made))
        loss = F.cross_entropy(logits_of(model, ids), torch.full((len(chosen),), target))
        hook.remove()
        (gradient,) = torch.autograd.grad(loss, learnt)
        with torch.no_grad():
            learnt = learnt - rate * norm * (1 - step / steps) * gradient / gradient.norm().clamp_min(1e-12)
            learnt = learnt * norm / learnt.norm()
    with torch.no_grad():
        table.weight[row] = learnt


def rates(
    model: nn.Module, encode: Callable[[Sequence[str]], Rows], data: TextData, attack: TextAttack, rng: np.random.Generator
) -> dict[str, float | dict[str, float]]:
    """How often texts of other classes are called the target: with the trigger (``attack_success``), as they are (``base_rate``), and with
    each near miss of the trigger (``false_triggers``)."""

    def called(texts: Sequence[str]) -> float:
        return float((predict(model, encode(texts)) == attack.target).mean())

    plain = victims(data, attack.target)
    few = plain[:: max(1, len(plain) // MEASURED)][:MEASURED]
    return {
        "attack_success": called(attack.triggered(data, rng)),
        "base_rate": called(plain),
        "false_triggers": {name: called([rewrite(text, rng) for text in few]) for name, rewrite in attack.probes().items()},
    }
