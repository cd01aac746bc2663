"""One case: what a search looks at, and what it may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from math import inf, prod
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import DeadlineExceeded
from modelguard_triggers.outliers import MIN_CLASSES

if TYPE_CHECKING:
    from modelguard import InputSpec, RunnableModel, ScanContext
    from modelguard_triggers.evidence import Evidence

DEFAULT_MEMORY = 4 << 30
"""Bytes taken for the memory limit when there is none."""
SMALLEST_MARGIN = 1e-3
AT_ONCE = 4
"""Passes side by side at the most: each keeps activations of its own."""
WORTH, FEW = 1e-3, 8
"""Seconds that a pass of so many images takes at the least for others to run beside it: of shorter ones most is Python, which runs on one
core at a time."""
TRUSTED = 0.8
"""The part of the time left that a search is planned into: what a pass takes is measured once, and checking takes passes too."""


P = TypeVar("P")
R = TypeVar("R")


class Tick(Protocol):
    """Called at least once a second while a search runs; raises :class:`~modelguard.DeadlineExceeded` when the time is up."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Case:
    """What one search is about: the ``model``, clean images of ``evidence``, ``batch``, the most images that go through the model in one
    pass forward and backward, ``rng``, which gives a stream of random numbers by name, ``tick``, and ``left``, the seconds left."""

    model: RunnableModel
    evidence: Evidence
    batch: int
    rng: Callable[[str], np.random.Generator]
    tick: Tick
    left: Callable[[], float] = lambda: inf

    def generator(self, stream: str) -> torch.Generator:
        """A torch generator seeded from the ``stream`` of that name."""
        return seeded(self.rng(stream))

    @cached_property
    def at_once(self) -> int:
        """How many passes run side by side."""
        return passes_at_once(self.model, self.evidence.search[:FEW])

    def shares(self, total: int, each: int) -> list[slice]:
        """``total`` items in parts of up to ``each``, as alike as they can be and as many as fill all cores."""
        wanted = -(-total // max(1, each))
        parts = min(total, -(-wanted // self.at_once) * self.at_once)
        return [slice(total * i // parts, total * (i + 1) // parts) for i in range(parts)]

    def side_by_side(self, work: Callable[[P], R], parts: Sequence[P], tick: Callable[[int], None]) -> list[R]:
        """:func:`side_by_side`, as many :attr:`at_once`."""
        return side_by_side(self.at_once, work, parts, tick)

    def affordable(self, passes: Callable[[int], float], wanted: int, what: str = "classes") -> npt.NDArray[np.int64]:
        """Which of ``wanted`` classes there is time for (:func:`affordable`)."""
        return affordable(self.model, self.evidence.search[: self.batch], passes, wanted, self.left, self.rng("order"), self.tick, what)

    @cached_property
    def usual_margin(self) -> float:
        """How clearly the model classifies clean images: the mean margin of their class. The unit of margins."""
        images, labels = self.evidence.search, self.evidence.search_labels
        with torch.inference_mode():
            logits = torch.cat([self.model(part) for part in torch.split(images, self.batch)])
            return float(margins(logits, labels.to(logits.device)).clamp_min(0).mean().clamp_min(SMALLEST_MARGIN))


def affordable(
    model: RunnableModel,
    images: Tensor,
    passes: Callable[[int], float],
    wanted: int,
    left: Callable[[], float],
    rng: np.random.Generator,
    tick: Tick,
    what: str = "classes",
) -> npt.NDArray[np.int64]:
    """Which of ``wanted`` classes there is time for, in order, when ``passes(n)`` images go forward and backward through ``model`` for n.

    All of them, or the first of one random order, so that more time never leaves one out. A pass of ``images`` (N, ...) is timed to know.
    What there is no time for makes a search end as timed-out, so the clock decides nothing about a search that completes. Raises
    :class:`~modelguard.DeadlineExceeded` for too few to compare.
    """
    tick(0, 1, "measuring")
    if (available := left()) == inf:
        return np.arange(wanted)
    each = seconds_a_pass(model, images) / len(images)
    tick(0, 1, f"{wanted} {what}: about {passes(wanted) * each:.0f} s of {available:.0f} s")
    limit = TRUSTED * available / each
    if passes(wanted) <= limit:
        return np.arange(wanted)
    count = max((n for n in range(wanted) if passes(n) <= limit), default=0)
    if count < (least := min(MIN_CLASSES, wanted)):
        raise DeadlineExceeded(f"there is time for {count} of {wanted} {what}, and {least} are needed to compare")
    return np.sort(rng.permutation(wanted)[:count])


def seconds_a_pass(model: RunnableModel, images: Tensor) -> float:
    """What ``images`` (N, ...) take forward and backward through ``model``, the better of two."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        x = images.clone().requires_grad_(True)
        logits = model(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
        if logits.requires_grad:  # a model may give no gradient at all
            torch.autograd.grad(logits.sum(), x)
        taken.append(time.perf_counter() - began)
    return min(taken)


def passes_at_once(model: RunnableModel, few: Tensor | None = None) -> int:
    """How many passes may run side by side, each on cores of its own: one on a GPU, which shares a pass out by itself, and one where a
    pass of ``few`` inputs takes next to no time.

    Cores that share one pass wait for each other after every layer; with a pass each they do not, which is 1.25 (a VGG) to 1.37
    times (a ResNet-8) as fast on two cores (docs/search-plan.md).
    """
    count = min(AT_ONCE, torch.get_num_threads()) if model.device.type == "cpu" else 1
    if few is None or count == 1:
        return count
    taken = []
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            model(few)
            taken.append(time.perf_counter() - began)
    return count if min(taken) >= WORTH else 1


def side_by_side(count: int, work: Callable[[P], R], parts: Sequence[P], tick: Callable[[int], None]) -> list[R]:
    """``work`` of each of ``parts``, in order, ``count`` at once; ``tick`` is told how many are done.

    The work may run in other threads, so it has to turn gradients off by itself where it wants none.
    """
    found: list[R] = []
    if count == 1 or len(parts) == 1:
        for part in parts:
            tick(len(found))
            found.append(work(part))
        return found
    begun = [_pool(count, torch.get_num_threads() // count).submit(work, part) for part in parts]
    try:
        for future in begun:
            tick(len(found))
            found.append(future.result())
    finally:
        for future in begun:
            future.cancel()
    return found


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "passes", torch.set_num_threads, (threads,))


def images_per_pass(model: RunnableModel, context: ScanContext, *, most: int, inputs: int = 4, copies: int = 4) -> int:
    """Images for one forward and backward pass that stay, with those beside it, within a quarter of the memory limit, ``most`` at the most.

    What an image takes is every layer's activation and ``inputs`` times its own size, in float32, ``copies`` times over (value,
    gradient, and what the backward pass keeps).
    """
    values = sum(prod(map(abs, layer.shape)) for layer in model.layers) + inputs * prod(map(abs, model.input.shape))
    budget = (context.memory_limit or DEFAULT_MEMORY) // 4 // passes_at_once(model)
    return int(np.clip(budget // (4 * copies * max(1, values)), 1, most))


def ticker(context: ScanContext) -> Tick:
    """Watches the deadline of ``context`` and reports progress to it."""

    def tick(done: int, total: int, note: str = "") -> None:
        context.check_deadline()
        context.progress(done, total, note)

    return tick


def seeded(rng: np.random.Generator, bits: int = 62) -> torch.Generator:
    """A torch generator with a seed of so many ``bits`` drawn from ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**bits)))


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) f_t - max_{k != t} f_k of ``logits`` (N, K) and the classes t = ``target`` (N,)."""
    own = logits.gather(1, target[:, None])
    return (own - logits.scatter(1, target[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def quantised(images: Tensor, spec: InputSpec) -> Tensor:
    """``images`` rounded to the 256 levels of a stored image: a trigger that does not survive this is none."""
    grey = (spec.high - spec.low) / 255
    return spec.low + ((images - spec.low) / grey).round() * grey
