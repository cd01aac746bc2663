"""Fine-tuning on clean samples, and unlearning: fine-tuning on samples that carry the trigger under their true label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from modelguard_evaluate import Picture
from torch import Tensor
from torch.nn import functional as F

from modelguard import Skip
from modelguard_repair.methods.base import Material, Method, labelled_loss, logits, train
from modelguard_repair.methods.nearby import nearby

EPOCHS = 30
RATE = 1e-2
"""Peak of the learning rate. A usual one leaves a backdoor in; a large one forgets it, and the descent brings the accuracy back (Sha et al.
2022, "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", section 4, super-fine-tuning). Of 5e-3, 1e-2, 2e-2 and 4e-2 on three
models of `benchmarks/repair.py` with seed 0: 5e-3 leaves 34 % to 91 % of the attack, 2e-2 costs 2 to 6 points of accuracy."""
UNLEARN_RATES = (6e-4, 1.2e-3, 2.5e-3, 5e-3)
"""Where the trigger is known nothing else need be forgotten: the smallest rate that unlearns it costs the least accuracy."""
UNLEARNT = 0.02
"""Share of the stamped samples, of those repaired on, that may be called something else where a rate has unlearnt a trigger."""
TEMPERATURE = 4.0
"""A stamped sample is to be called what the suspect says of it without the trigger, softened (Hinton et al. 2015, section 2): that
keeps what the labels of a few hundred samples cannot. On nine models of digits, seeds 4 to 7 (`benchmarks/repair.py`), labels cost 1.4
points of accuracy and left 33 % of a trigger at most; this costs .4 and leaves 18 %. Temperatures of 1 and 2 cost 1.3 and .8."""
STAMPED = 0.3
"""Share of the samples that carry a trigger. The published fifth (Wang et al. 2019, Neural Cleanse, section VI-C) is for one; with patches
near it beside it (`nearby`) a smaller rate unlearns them where there are more, and costs less."""


class FineTune(Method):
    """Clean samples and their labels, at a learning rate that is large and falls."""

    name = "fine-tune"
    cost = 2

    def repair(self, given: Material) -> dict[str, Any]:
        train(given, given.x, labelled_loss(given), epochs=EPOCHS, rate=RATE)
        return {"epochs": EPOCHS, "rate": RATE}


class Unlearn(Method):
    """Patching by unlearning (Wang et al. 2019, section VI-C): some of the samples carry the trigger, or a patch near it, and are to be
    called what they were without it.

    The published single epoch over a tenth of the training set is as many steps as are made here over a few hundred samples.
    """

    name = "unlearn"
    cost = 1

    def repair(self, given: Material) -> dict[str, Any]:
        if not given.triggers:
            raise Skip("no trigger is known and no search recovered one: give --trigger, or use a method that needs none")
        clean = given.x
        said = F.softmax(logits(given.weights, clean) / TEMPERATURE, 1)
        # Texts grow by the phrase: all variants are padded alike.
        stamped = [given.encoded(item.trigger.on(given.inputs.samples)) for item in given.triggers]
        if clean.ndim == 2:
            clean, *stamped = _alike([clean, *stamped], given)
        known = len(stamped)
        for item in given.triggers:
            if isinstance(item.trigger, Picture) and item.target is not None:
                given.tick(f"patches near {item.name}")
                stamped += nearby(given, item.trigger, item.target)
        rng = np.random.default_rng([7, given.seed])

        def loss(x: Tensor, places: Tensor) -> Tensor:
            marked = torch.from_numpy(rng.random(len(places)) < STAMPED)
            which = rng.integers(len(stamped), size=len(places))
            x = x.clone()
            for place in torch.nonzero(marked).flatten().tolist():
                x[place] = stamped[int(which[place])][int(places[place])]
            mine = F.log_softmax(given.weights.model.forward(x) / TEMPERATURE, 1)
            return TEMPERATURE**2 * F.kl_div(mine, said[places.to(said.device)], reduction="batchmean")

        start = given.weights.state()
        for rate in UNLEARN_RATES:
            given.weights.restore(start)
            train(given, clean, loss, epochs=EPOCHS, rate=rate)
            left = max(_turned(given, item, said.argmax(1)) for item in stamped)
            if left <= UNLEARNT:
                break
        return {
            "epochs": EPOCHS,
            "rate": rate,
            "left": round(left, 4),
            "stamped": STAMPED,
            "triggers": known,
            "nearby": len(stamped) - known,
        }


def _turned(given: Material, stamped: Tensor, before: Tensor) -> float:
    """The share of the stamped samples that are not given the class (N,) that the suspect gave them without the trigger."""
    return float((logits(given.weights, stamped).argmax(1) != before).float().mean())


def _alike(parts: list[Tensor], given: Material) -> list[Tensor]:
    """Token ids (N, T), all as long as the longest, padded on the right: classifiers are."""
    spec = given.weights.model.text
    longest = max(part.shape[1] for part in parts)
    pad = spec.pad if spec is not None and spec.pad is not None else 0
    return [F.pad(part, (0, longest - part.shape[1]), value=pad) for part in parts]
