"""Knowledge distillation: a student that has forgotten learns from the suspect what it says of clean samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard_repair.methods.base import Material, Method, logits, train

EPOCHS = 120
"""A patient teacher: of few samples a student learns by seeing their mixtures many times (Beyer et al. 2022, section 3)."""
ROUNDS = 40
"""Different sets of mixtures that the epochs are made of. On twelve models of digits, seeds 4 to 7 (`benchmarks/repair.py`), 40 cost .8
points of accuracy and 12 cost 1.1, and forget as much; 120 gain no more."""
MOST_BYTES = 1 << 30
"""What all sets may hold in memory: of many or large samples there are fewer sets, and each is seen more often."""
RATE = 1e-2
TEMPERATURE = 4.0
"""Softens what the teacher says (Hinton, Vinyals and Dean 2015, section 2)."""
SHRINK, NOISE = 0.2, 0.3
"""The student begins as the suspect, its weights shrunk and perturbed (Ash and Adams 2020, section 4): what a few weights decide is lost,
what many do can be learnt again."""


class Distil(Method):
    """The student sees mixtures of clean samples (mixup, Zhang et al. 2018), and matches what the suspect says of the same mixtures. A
    trigger is in none of them."""

    name = "distil"
    cost = 10

    def repair(self, given: Material) -> dict[str, Any]:
        weights, x = given.weights, given.x
        generator = given.generator()
        mixed = x.is_floating_point()
        suspect = weights.state()
        rng = np.random.default_rng([11, given.seed])
        # What the teacher says of all mixtures of an epoch is asked before the student learns: one set of weights is in place at a time.
        rounds = max(1, min(ROUNDS, MOST_BYTES // (x.numel() * x.element_size())))
        lessons = [self._lesson(given, x, mixed, rng) for _ in range(rounds)]
        with torch.no_grad():
            for parameter in weights.tensors.values():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                scale = parameter.std() if parameter.numel() > 1 else 0.0
                if parameter.ndim > 1:
                    parameter.mul_(SHRINK).add_(NOISE * scale * noise)
        inputs = torch.cat([item for item, _ in lessons])
        said = torch.cat([item for _, item in lessons])

        def loss(batch: Tensor, places: Tensor) -> Tensor:
            theirs = said[places.to(said.device)]
            mine = F.log_softmax(weights.model.forward(batch) / TEMPERATURE, 1)
            return TEMPERATURE**2 * F.kl_div(mine, theirs, reduction="batchmean")

        train(given, inputs, loss, epochs=max(1, EPOCHS // rounds), rate=RATE)
        moved = sum(float((weights.tensors[name] - tensor).square().sum()) for name, tensor in suspect.items()) ** 0.5
        return {"epochs": EPOCHS, "rate": RATE, "temperature": TEMPERATURE, "shrink": SHRINK, "noise": NOISE, "moved": round(moved, 3)}

    def _lesson(self, given: Material, x: Tensor, mixed: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(N, ...) mixtures of two samples each, or the samples where they are token ids, and (N, classes) what the suspect says."""
        if mixed:
            share = torch.from_numpy(rng.random(len(x)).astype(np.float32)).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
            x = share * x + (1 - share) * x[torch.from_numpy(rng.permutation(len(x))).to(x.device)]
        return x, F.softmax(logits(given.weights, x) / TEMPERATURE, 1)
