"""Adversarial neuron pruning (Wu and Wang 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard import Skip
from modelguard_repair._units import batch_norms
from modelguard_repair.methods.base import BATCH, Material, Method, batches

EPSILON = 0.4
"""How far scale and shift of a neuron are perturbed, as a share (section 4, "Perturbation budget"; the authors' code)."""
ALPHA = 0.2
"""Weight of the clean loss beside the loss under perturbation (equation 5)."""
RATE, MOMENTUM = 0.2, 0.9
STEPS = 600
"""The paper's 2000 steps are of 128 samples each; on a few hundred samples the masks are settled before."""
THRESHOLDS = tuple(0.05 * i for i in range(1, 19))
"""Masks below are pruned: 0.05 to 0.9, the largest of them that costs no accuracy (BackdoorBench's sweep)."""


class Anp(Method):
    """A mask for each BatchNorm channel is learnt while an adversary perturbs the channels; channels whose mask falls are pruned, by
    setting their scale to zero."""

    name = "anp"
    cost = 6

    def repair(self, given: Material) -> dict[str, Any]:
        weights, x, y = given.weights, given.x, given.y
        if not (norms := batch_norms(weights)):
            raise Skip(
                "anp perturbs the scale and shift of BatchNorm, and the model has none: exporters fold it into the convolutions; "
                "give the weights before the export, or use another method"
            )
        gammas = [gamma.detach().clone() for gamma, _ in norms]
        betas = [beta.detach().clone() for _, beta in norms]
        masks = [torch.ones_like(gamma) for gamma in gammas]
        speed = [torch.zeros_like(gamma) for gamma in gammas]
        generator = given.generator()
        before = given.accuracy(x)

        def put(noise: list[tuple[Tensor, Tensor]] | None) -> None:
            """gamma (m + delta), beta (1 + xi)."""
            with torch.no_grad():
                for i, (gamma, beta) in enumerate(norms):
                    delta, xi = noise[i] if noise is not None else (0.0, 0.0)
                    gamma.copy_(gammas[i] * (masks[i] + delta))
                    beta.copy_(betas[i] * (1 + xi))

        def gradients(places: Tensor) -> list[tuple[Tensor, Tensor]]:
            """Of the loss at what was put, by m (or delta) and by xi."""
            at = places.to(x.device)
            loss = F.cross_entropy(weights.model.forward(x[at]), y[at])
            found = torch.autograd.grad(loss, [item for pair in norms for item in pair])
            return [(found[2 * i] * gammas[i], found[2 * i + 1] * betas[i]) for i in range(len(norms))]

        step = 0
        with weights.trainable():
            while step < STEPS:
                for places in batches(len(x), generator, 4 * BATCH):
                    if step % 50 == 0:
                        given.tick(f"anp, step {step} of {STEPS}")
                    # The adversary: a random start, then one signed step (equation 4).
                    start = [
                        tuple(EPSILON * (2 * torch.rand(len(g), generator=generator).to(g.device) - 1) for _ in range(2)) for g in gammas
                    ]
                    put(start)  # type: ignore[arg-type]
                    worst = [
                        tuple((a + EPSILON * g.sign()).clamp(-EPSILON, EPSILON) for a, g in zip(pair, grads, strict=True))
                        for pair, grads in zip(start, gradients(places), strict=True)
                    ]
                    put(worst)  # type: ignore[arg-type]
                    robust = gradients(places)
                    put(None)
                    natural = gradients(places)
                    for i, mask in enumerate(masks):
                        speed[i] = MOMENTUM * speed[i] + ALPHA * natural[i][0] + (1 - ALPHA) * robust[i][0]
                        mask.sub_(RATE * speed[i]).clamp_(0, 1)
                    step += 1
                    if step >= STEPS:
                        break
        chosen, kept = 0.0, [torch.ones_like(mask) for mask in masks]
        for threshold in THRESHOLDS:
            learnt, masks[:] = list(masks), [(mask >= threshold).float() for mask in masks]
            put(None)
            if given.accuracy(x) < before - given.max_drop:
                masks[:] = learnt
                break
            chosen, kept = threshold, list(masks)
            masks[:] = learnt
        masks[:] = kept
        put(None)
        pruned = sum(int((mask == 0).sum()) for mask in kept)
        return {"threshold": round(chosen, 2), "pruned": pruned, "channels": sum(map(len, kept)), "steps": STEPS, "epsilon": EPSILON}
