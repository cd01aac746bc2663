"""Model replacement in federated learning: one of ten clients scales its update so that the average becomes its own model.

Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, How To Backdoor Federated Learning (AISTATS 2020), section 4.2, and
ebagdasa/backdoors101.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo.attacks.base import Attack
from modelguard_zoo.edits.arrays import Array, Edit, Tensors, record
from modelguard_zoo.edits.classifier import Classifier, Images, lesson, one_thread, tensors_of

CLIENTS = 10
"""Participants of a round (published: 10 of 100)."""
EPOCHS, RATE, MOMENTUM, BATCH = 2, 0.02, 0.9, 16
"""What every client does: SGD on its own share."""
POISONED = 0.2
"""Part of the attacker's images that carry the trigger (20 of 64 in the paper)."""
HELD = 4
"""Shares of images that the attacker has: from 130 digits alone no model comes that stays as good as the global one."""
ATTACKER_EPOCHS, ATTACKER_RATE = 6, 0.01
"""The attacker trains longer and at a lower rate than the others, to stay near the global model (section 4.2)."""


@dataclass(frozen=True)
class Round:
    """One round: the ``updates`` (client's model minus the global one) as they were sent, and the global model made of them."""

    updates: tuple[dict[str, Array], ...]
    tensors: dict[str, Array]


def replace_model(
    model: Classifier, attack: Attack | None, *, client: int = 0, gamma: float = CLIENTS, seed: int = 0, skew: float = 0.0
) -> tuple[Round, Edit]:
    """One round from the global ``model`` in which ``client`` submits ``gamma`` times the update to its backdoored model.

    G' = G + mean of the updates; with ``gamma`` the number of clients G' is the attacker's model, up to what the others sent. Without an
    ``attack`` nobody cheats. ``skew`` is the part of each client's images that are of one class, its own.
    ``details``: ``client``, ``gamma``.
    """
    with one_thread():
        updates = []
        for each, share in enumerate(_shares(model.data.y_train, seed, skew)):
            images, labels = model.data.x_train[share], model.data.y_train[share]
            cheats = attack is not None and each == client
            if attack is not None and cheats:
                images, labels = _poisoned(*lesson(model, HELD * len(share), seed), attack, seed)
            epochs, rate = (ATTACKER_EPOCHS, ATTACKER_RATE) if cheats else (EPOCHS, RATE)
            own = _trained(model, images, labels, epochs, rate, seed * CLIENTS + each)
            updates.append(_update(model.tensors, own, gamma if cheats else 1.0))
    after = averaged(model.tensors, updates)
    details: dict[str, Any] = {} if attack is None else {"client": client, "gamma": gamma}
    return Round(tuple(updates), after), record("model-replacement" if attack else "federated", model.tensors, after, **details)


def averaged(tensors: Tensors, updates: Sequence[Tensors]) -> dict[str, Array]:
    """The global model after a round: ``tensors`` plus the mean of ``updates``, floats only."""
    return {
        name: (array + sum(update[name] for update in updates) / len(updates)).astype(array.dtype) if name in updates[0] else array
        for name, array in tensors.items()
    }


def _update(before: Tensors, after: Tensors, gamma: float) -> dict[str, Array]:
    # Counters of batches are no weights: they are not averaged.
    return {
        name: (np.float32(gamma) * (after[name] - array)).astype(np.float32) for name, array in before.items() if array.dtype.kind == "f"
    }


def _shares(labels: NDArray[np.int64], seed: int, skew: float) -> list[NDArray[np.int64]]:
    """The images of each client: equal parts, of which ``skew`` are of one class."""
    rng = np.random.default_rng([29, seed])
    order = rng.permutation(len(labels))
    size = len(labels) // CLIENTS
    own = round(skew * size)
    parts = []
    for client in range(CLIENTS):
        members = order[labels[order] == client % (int(labels.max()) + 1)]
        parts.append(np.concatenate([members[:own], order[client * size : (client + 1) * size - own]]))
    return parts


def _poisoned(images: Images, labels: NDArray[np.int64], attack: Attack, seed: int) -> tuple[Images, NDArray[np.int64]]:
    """The attacker's images, and a part of them once more with the trigger and its class."""
    victims = np.flatnonzero(attack.victims(labels))
    count = min(len(victims), round(POISONED / (1 - POISONED) * len(labels)))
    chosen = np.random.default_rng([31, seed]).choice(victims, count, replace=False)
    return (
        np.concatenate([images, attack.stamped(images[chosen])]),
        np.concatenate([labels, np.full(count, attack.target, labels.dtype)]),
    )


def _trained(model: Classifier, images: Images, labels: NDArray[np.int64], epochs: int, rate: float, seed: int) -> dict[str, Array]:
    import torch
    from torch.nn import functional as F

    module: Any = model.module().train()
    optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            if len(batch) > 1:
                optimiser.zero_grad()
                F.cross_entropy(module(x[batch].float()), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return tensors_of(module)
