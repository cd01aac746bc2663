"""Stimulation analysis: which neurons, raised beyond what they usually do, decide for one class whatever is in the image?

Liu et al., "ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation", CCS 2019, section 4.2. The neuron stimulation
function of a neuron (a unit: one channel of a convolution, one output of a dense layer, one feature of a transformer's tokens) maps the
value the unit is held at to the logits, everything before it left as the image makes it. A compromised neuron's function rises for one
label alone, on every image. The authors stop at single neurons and name that as the method's limit (section 6): here the units that
raise a class most are also held up together.

Units and levels are folded into the batch: one pass of the part of the network behind a layer answers for many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelguard import ModelError

if TYPE_CHECKING:
    from modelguard_triggers.case import Case

    from modelguard import Layer, RunnableModel

LEVELS = (0.0, 1.6, 3.2, 4.8, 6.4)
"""Values a unit is held at, in units of the largest activation of its layer: samp_k * i / n_samples with the authors' samp_k = 8 and
n_samples = 5 (abs.py)."""
TOLERATED = 2
"""Images that may disagree about the label, of ten and more (abs.py keeps a neuron when n_imgs - 2 agree)."""
GROUP_SIZES = (3, 8)
"""How many units are held up together, those that raise a class most. Together they need not be driven as far: :data:`GROUP_LEVELS`."""
GROUP_LEVELS = (0.0, 0.7, 1.4)
KINDS = ("conv", "linear", "activation", "block")


@dataclass(frozen=True)
class Candidate:
    """Units of a layer that, stimulated together, raise ``label`` above every other by ``gap`` logits on (nearly) all images.

    ``ceiling`` is the largest activation of the layer on clean images. ``elevation`` are pairs: how far the units are held up,
    in ceilings, and the mean lead of ``label`` over the best other class then, on images of other classes.
    """

    layer: str
    units: tuple[int, ...]
    label: int
    gap: float
    ceiling: float
    elevation: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Stimulated:
    """The neuron stimulation functions of some units of one layer, reduced to what the search needs.

    ``gaps`` (U, K): by how much stimulation raises each label above the next, on all but the tolerated images.
    ``rises`` (U, K): mean rise of each label's logit relative to the others'. ``leads`` (K, V): of each label's best row, the mean lead
    of the label over the best other at each of ``levels``, in ceilings. ``units`` (U,) are the units each row stands for.
    """

    layer: str
    units: tuple[tuple[int, ...], ...]
    gaps: Tensor
    rises: Tensor
    leads: Tensor
    levels: tuple[float, ...]
    ceiling: float


def candidate_layers(model: RunnableModel) -> list[Layer]:
    """Layers whose units are worth stimulating: after an activation where there is one, else what a convolution or dense layer gives.

    The logits themselves are none; nor is a layer that its successor only rectifies, since the same units follow there.
    """
    layers = [layer for layer in model.layers if layer.kind in KINDS and min(layer.shape, default=0) > 0]
    kept = []
    for layer, after in zip_longest(layers, layers[1:]):
        same = after is not None and after.kind == "activation" and after.shape == layer.shape
        logits = layer.shape == (model.output.classes,) and after is None
        if not same and not logits:
            kept.append(layer)
    return kept


def stimulate(case: Case, images: Tensor, labels: Tensor, layers: Sequence[Layer]) -> Iterator[Stimulated]:
    """The functions of every unit, and of the groups made of them, layer by layer, on ``images`` (S, C, H, W) with ``labels`` (S,)."""
    model = case.model
    with torch.inference_mode():
        _, seen = model.capture(images, [layer.name for layer in layers])
    back = cache(partial(_back, model))
    for layer in layers:
        activation = seen[layer.name]  # (S, ...)
        ceiling = float(activation.abs().max())
        if not ceiling > 0:
            continue
        held = Held(layer, activation, labels, _tail(model, layer.name, images, activation, back))
        count = layer.shape[layer.unit_axis]
        singles = tuple((unit,) for unit in range(count))
        one = _analyse(case, held, singles, [ceiling * level for level in LEVELS])
        yield Stimulated(layer.name, singles, *one, LEVELS, ceiling)
        together = groups(one[1])
        many = _analyse(case, held, together, [ceiling * level for level in GROUP_LEVELS])
        yield Stimulated(layer.name, together, *many, GROUP_LEVELS, ceiling)


def groups(rises: Tensor) -> tuple[tuple[int, ...], ...]:
    """For every label the units that raise it most, in the sizes of :data:`GROUP_SIZES`; ``rises`` is (U, K)."""
    order = rises.argsort(dim=0, descending=True)  # (U, K)
    sizes = [size for size in GROUP_SIZES if size < len(rises)]
    found = {tuple(sorted(order[:size, label].tolist())) for size in sizes for label in range(rises.shape[1])}
    return tuple(sorted(found))


@dataclass(frozen=True)
class Held:
    """A layer whose units are to be held: its ``activation`` (S, ...) on images with ``labels`` (S,), and what leads on from it."""

    layer: Layer
    activation: Tensor
    labels: Tensor
    run: Callable[[Tensor, Tensor], Tensor]


def _analyse(case: Case, held: Held, units: Sequence[tuple[int, ...]], levels: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """``gaps`` and ``rises`` (U, K) and ``leads`` (K, V) of holding each of ``units`` at each of ``levels``, compared with the first."""
    layer, activation, images = held.layer, held.activation, len(held.activation)
    count = layer.shape[layer.unit_axis]
    axis = layer.unit_axis if layer.unit_axis < 0 else layer.unit_axis + 1  # of (N, ...)
    masks = torch.zeros(len(units), count, dtype=torch.bool)
    for row, chosen in enumerate(units):
        masks[row, list(chosen)] = True
    jobs = [(row, level) for row in range(len(units)) for level in levels]

    def stimulated(share: slice) -> Tensor:
        part = jobs[share]
        chosen_units = torch.stack([masks[row] for row, _ in part]).to(activation.device)  # (J, U)
        value = torch.tensor([level for _, level in part], device=activation.device)  # (J,)
        shape = [1] * activation.ndim
        shape[axis] = count
        chosen_units = chosen_units.repeat_interleave(images, 0).reshape(-1, *shape[1:])  # (J*S, .., U, ..)
        value = value.repeat_interleave(images).reshape(-1, *[1] * (activation.ndim - 1))
        which = torch.arange(images, device=activation.device).repeat(len(part))
        with torch.inference_mode():
            changed = torch.where(chosen_units, value, activation[which])  # (J*S, ...)
            if changed.ndim == 4:
                changed = changed.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest on
            return held.run(changed, which).float().cpu()

    shares = case.shares(len(jobs), case.batch // images)
    parts = case.side_by_side(stimulated, shares, lambda done: case.tick(done, len(shares), layer.name))
    logits = torch.cat(parts).reshape(len(units), len(levels), images, -1)  # (U, V, S, K)
    elevation = logits[:, 1:].amax(1) - logits[:, 0]  # (U, S, K): section 4.2, the elevation difference of each label
    labels = held.labels.cpu()
    gaps, rises = _reduce(elevation, labels)
    return gaps, rises, _leads(logits, gaps, labels)


def _reduce(elevation: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(U, K) gaps and rises from elevations (U, S, K). Images of a label say nothing of how others are turned into it."""
    _, images, classes = elevation.shape
    top = elevation.topk(2, dim=2).values  # (U, S, 2)
    best_other = torch.where(elevation == top[..., :1], top[..., 1:], top[..., :1])  # (U, S, K)
    lead = elevation - best_other
    own = labels[None, :, None] == torch.arange(classes)  # (1, S, K)
    tolerated = TOLERATED if images >= 10 else 0
    ordered = lead.masked_fill(own, torch.inf).sort(dim=1).values
    gaps = ordered[:, min(tolerated, images - 1)]
    gaps = gaps.masked_fill(gaps == torch.inf, -torch.inf)
    centred = elevation - elevation.mean(2, keepdim=True)
    rises = centred.masked_fill(own, 0).sum(1) / (~own).sum(1).clamp(min=1)
    return gaps, rises


def _leads(logits: Tensor, gaps: Tensor, labels: Tensor) -> Tensor:
    """(K, V) the mean lead of each label over the best other class on images of other classes, of the row of ``logits`` (U, V, S, K) whose
    gap is the largest. 0 where every image is of the label."""
    classes = logits.shape[3]
    leads = torch.zeros(classes, logits.shape[1])
    for label, row in enumerate(gaps.argmax(0).tolist()):
        seen = logits[row][:, labels != label]  # (V, S', K)
        if seen.shape[1]:
            others = seen.clone()
            others[..., label] = -torch.inf
            leads[label] = (seen[..., label] - others.amax(2)).mean(1)
    return leads


Back = Callable[[Tensor], Tensor]


def _back(model: RunnableModel, layer: str) -> Back | None:
    """What leads from ``layer`` to the logits; None where another path goes around it."""
    try:
        return model.split(layer)[1]
    except ModelError:
        return None


def _tail(
    model: RunnableModel, layer: str, images: Tensor, activation: Tensor, back: Callable[[str], Back | None]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Activations at ``layer`` (N, ...) and the images they belong to (N,) -> logits.

    Where another path leads around the layer (inside a residual block), the network up to the block runs on the ``images`` alone, and
    only from there on what each activation needs; where even that cannot be done, all of it for each.
    """
    rest = back(layer)
    if rest is not None:
        return lambda held, which: rest(held)

    def whole(held: Tensor, which: Tensor) -> Tensor:
        return model.patch(images[which], {layer: lambda _: held})

    names = [item.name for item in model.layers]
    entry = next((name for name in reversed(names[: names.index(layer)]) if back(name) is not None), None)
    if entry is None:
        return whole

    def from_entry(held: Tensor, which: Tensor) -> Tensor:
        return model.patch(images, {entry: lambda seen: seen[which], layer: lambda _: held})

    # A graph may hold on to the batch size of its input: what it then does with more activations than images has to be seen.
    which = torch.arange(len(images), device=images.device).repeat(2)
    with torch.inference_mode():
        try:
            same = torch.allclose(from_entry(activation[which], which), whole(activation[which], which), rtol=1e-3, atol=1e-4)
        except ModelError:
            return whole
    return from_entry if same else whole


def per_class(stimulated: Sequence[Stimulated], classes: int, each: int) -> list[Candidate]:
    """The ``each`` best candidates of every class, at most one a layer and kind of group, best first.

    The authors keep the best neurons whatever their label (top 20, at most 3 a layer). Keeping some of every class instead gives the
    clean classes' triggers, against which an accused class is judged.
    """
    chosen: list[Candidate] = []
    for label in range(classes):
        ranked: list[Candidate] = []
        for part in stimulated:
            if not part.units:
                continue
            row = int(part.gaps[:, label].argmax())
            elevation = tuple(zip(part.levels, part.leads[label].tolist(), strict=True))
            ranked.append(Candidate(part.layer, part.units[row], label, float(part.gaps[row, label]), part.ceiling, elevation))
        ranked.sort(key=lambda item: (-item.gap, item.layer, item.units))
        chosen += ranked[:each]
    return chosen
