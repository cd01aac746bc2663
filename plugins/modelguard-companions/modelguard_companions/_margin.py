"""The maximum-margin statistic: how far one logit can be driven above the others, over the whole input domain.

Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern Types Using a Maximum
Margin Statistic", IEEE S&P 2024, section IV. A backdoor makes the landscape of its target class rise far above what clean training
gives any class, whatever the trigger looks like, and no clean sample is needed to see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from modelguard_triggers.case import Tick, margins
from torch import Tensor

if TYPE_CHECKING:
    from modelguard import RunnableModel

RATE = 0.05
"""Adam's rate in units of the input range. The authors' code uses SGD at 1e-2 for 300 steps (and re-creates the optimiser each step,
which voids its momentum); Adam reaches higher margins in a third of the steps on every model it was tried on."""


def maximum_margins(
    model: RunnableModel, classes: Tensor, *, restarts: int, steps: int, generator: torch.Generator, batch: int, tick: Tick
) -> Tensor:
    """max over x of f_t(x) - max_{k != t} f_k(x), for every class t of ``classes`` (K,) at once: (K,) float32.

    ``restarts`` uniformly random starting images a class (30 in the paper); each is kept inside the input's bounds, and none of the input's
    sizes may be free. ``batch`` images go through the model at a time; ``tick(done, total)`` is called before each step.
    """
    spec = model.input
    targets = classes.repeat_interleave(restarts)  # (K*R,)
    starts = torch.rand((len(targets), *spec.shape), generator=generator)  # (K*R, C, H, W) in units of the range
    best = torch.full((len(targets),), -torch.inf)
    chunks = list(range(0, len(targets), batch))
    for number, begin in enumerate(chunks):
        part = slice(begin, begin + batch)
        z = starts[part].to(model.device)
        if z.ndim == 4:
            z = z.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest on
        z.requires_grad_(True)
        target = targets[part].to(model.device)
        optimiser = torch.optim.Adam([z], lr=RATE)
        for step in range(steps):
            tick(number * steps + step, len(chunks) * steps)
            margin = margins(model(spec.low + (spec.high - spec.low) * z), target)  # (B,)
            best[part] = torch.maximum(best[part], margin.detach().cpu())
            (z.grad,) = torch.autograd.grad(-margin.sum(), z)
            optimiser.step()
            with torch.no_grad():
                z.clamp_(0, 1)
        with torch.no_grad():
            last = margins(model(spec.low + (spec.high - spec.low) * z), target)
            best[part] = torch.maximum(best[part], last.cpu())
    return best.reshape(len(classes), restarts).max(dim=1).values  # (K,)
