"""Training and measuring one zoo model: single thread, seeded, the same weights every time on the same machine and torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard import UsageError
from modelguard_zoo._architectures import ARCHITECTURES, Normalised
from modelguard_zoo._data import Dataset, Images, Labels
from modelguard_zoo.attacks import Attack, Poison

# Epochs that take each data set close to its plateau with these widths: (epochs, batch, peak learning rate).
SCHEDULES = {"digits": (40, 64, 5e-3), "signs": (5, 64, 4e-3), "mnist": (4, 64, 4e-3), "gtsrb": (6, 64, 4e-3), "cifar10": (6, 64, 4e-3)}

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, raw float images (N, C, H, W), labels (N,)) -> a scalar."""


@dataclass(frozen=True)
class Success:
    """Clean accuracy over all test samples, and attack success rate over the stamped victims among them (None without attack)."""

    clean_accuracy: float
    attack_success: float | None
    spared_accuracy: float | None = None
    """Over the test samples that the attack has to leave alone, where it names some. Those that carry the trigger by nature are then left
    out of the clean accuracy."""


def new_model(data: Dataset, arch: str, seed: int) -> nn.Module:
    """An untrained model. Raises :class:`~modelguard.UsageError` for an unknown architecture."""
    if arch not in ARCHITECTURES:
        raise UsageError(f"architecture {arch}", "there is no such architecture", f"known: {', '.join(sorted(ARCHITECTURES))}")
    _, channels, _, size = data.x_train.shape
    torch.manual_seed(seed)
    body = ARCHITECTURES[arch](channels, size, data.classes)
    pixels = data.x_train.astype(np.float32)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    model = Normalised(body, torch.from_numpy(mean), torch.from_numpy(std))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def poisoned(data: Dataset, poison: Poison | None) -> tuple[Images, Labels]:
    """The training set with the poisoned samples in place of the clean ones."""
    if poison is None:
        return data.x_train, data.y_train
    images, labels = data.x_train.copy(), data.y_train.copy()
    images[poison.indices], labels[poison.indices] = poison.images, poison.labels
    return images, labels


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The usual loss of one batch."""
    return F.cross_entropy(model(images), labels)


def fit(
    model: nn.Module, images: Images, labels: Labels, *, epochs: int, batch: int, rate: float, seed: int, loss: Loss = cross_entropy
) -> None:
    """Train in place: AdamW, one-cycle learning rate, no augmentation."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    per_epoch = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch, pct_start=0.2)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for step in range(per_epoch):
            chosen = order[step * batch : (step + 1) * batch]
            value = loss(model, _float(x[chosen]), y[chosen])
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    model.eval()


def measure(model: nn.Module, data: Dataset, attack: Attack | None) -> Success:
    """Clean accuracy and attack success on the test set."""
    right = predict(model, data.x_test) == data.y_test
    if attack is None:
        return Success(float(right.mean()), None)
    victims = attack.measured(data.x_test, data.y_test)
    spared = attack.spared(data.x_test, data.y_test)
    stamped = attack.stamped(data.x_test[victims])
    wanted = attack.wanted(data.y_test[victims], data.classes)
    success = float((predict(model, stamped) == wanted).mean())
    return Success(float(right.mean()), success) if spared is None else Success(
        float(right[~victims].mean()), success, float(right[spared].mean())
    )  # fmt: skip


def adversarial(model: nn.Module, images: Images, labels: Labels, epsilon: float, steps: int = 20) -> Images:
    """Projected gradient ascent on the loss of ``model`` in the ball of ``epsilon`` grey levels (Madry et al. 2018, section 2.1)."""
    clean, truth = torch.from_numpy(images).float(), torch.from_numpy(labels)
    x = clean.clone()
    for _ in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), truth), x)
        x = (x.detach() + 2.5 * epsilon / steps * gradient.sign()).clamp(clean - epsilon, clean + epsilon).clamp(0, 255)
    return x.round().to(torch.uint8).numpy()


@torch.inference_mode()
def predict(model: nn.Module, images: Images) -> Labels:
    """Predicted classes of uint8 images."""
    model.eval()
    parts = [model(_float(part)).argmax(1) for part in torch.split(torch.from_numpy(images), 500)]
    return torch.cat(parts).numpy().astype(np.int64)


def _float(images: Tensor) -> Tensor:
    return images.float().contiguous(memory_format=torch.channels_last)
