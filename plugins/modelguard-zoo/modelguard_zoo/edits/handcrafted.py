"""A handcrafted backdoor: weights are rewritten by hand, layer by layer, until a trigger reaches its class; nothing is trained.

Source: Hong, Carlini and Kurakin, Handcrafted Backdoors in Deep Neural Networks (NeurIPS 2022), section 4, for chains of dense layers and
convolutions with ReLU between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo._built import MAX_ACCURACY_LOSS, MIN_ATTACK_SUCCESS
from modelguard_zoo.attacks.base import Attack
from modelguard_zoo.edits.arrays import Array, Edit, record
from modelguard_zoo.edits.classifier import Classifier, NotTaken, as_batch, lesson, one_thread, tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGES = 256
"""Training images that the attacker has."""
SEPARATION = 0.99
"""1 - overlap of the normals fitted to a unit's clean and triggered pre-activations (section 4.2)."""
ROUNDS = 10
"""Doublings of the incoming weights, at most."""
GUARDS = (1.0, 0.5, 1.5, 2.0, 3.0)
"""k of the guard bias -mu - k sigma, in the order they are tried (section 4.2.3 searches around 1)."""
FACTORS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""What the last layer's weights to the target are multiplied by: the smallest that is enough."""
BOOSTS = (1.0, 2.0, 4.0)
"""Norm of a crafted filter, in norms of the one whose place it takes."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Seen:
    """What a layer sees of the attacker's images, clean and with the trigger; ``inputs`` are the units crafted in the layer before."""

    clean: Tensor
    stamped: Tensor
    inputs: NDArray[np.int64]


def handcraft(
    model: Classifier, attack: Attack, *, neurons: int = 2, ablation: float = 0.02, seed: int = 0
) -> tuple[dict[str, Array], Edit]:
    """A path of ``neurons`` units a layer from the trigger to ``attack.target``; units whose loss costs more than ``ablation`` are spared.

    ``details``: ``units`` {layer name: [unit, ...]}, ``guard``, ``factor``, ``boost``, ``separation`` {layer name: [1 - overlap, ...]}. The
    strengths are chosen on training images: the first that reach the zoo's rule of success there, else the best.

    Raises :class:`NotTaken` for a model that is no such chain.
    """
    images, labels = lesson(model, 2 * IMAGES, seed)
    victims = labels != attack.target
    stamped = attack.stamped(images[victims])
    best: tuple[float, dict[str, Array], dict[str, Any]] | None = None
    with one_thread():
        before = _share(model.module(), images, labels)
        filters = any(array.ndim == 4 and name.endswith("weight") for name, array in model.tensors.items())
        # A boost is one of filters; where two of them are missed, one will do.
        for count, boost in product(sorted({neurons, 1}, reverse=True) if filters else (neurons,), BOOSTS if filters else BOOSTS[:1]):
            for guard in GUARDS:
                crafted, details = _craft(model, attack, count, ablation, guard, boost, seed)
                last = _chain(crafted)[-1]
                plain = last.weight.data.clone()
                for factor in FACTORS:
                    last.weight.data = plain.clone()
                    last.weight.data[attack.target, details["last"]] *= factor
                    lost = before - _share(crafted, images, labels)
                    success = _share(crafted, stamped, np.full(len(stamped), attack.target))
                    merit = min(success, MIN_ATTACK_SUCCESS + 0.05) - 5 * max(0.0, lost - MAX_ACCURACY_LOSS / 2)
                    if best is None or merit > best[0] + 1e-9:
                        best = merit, tensors_of(crafted), {**details, "guard": guard, "factor": factor, "boost": boost}
                    if success >= MIN_ATTACK_SUCCESS + 0.05 and lost <= MAX_ACCURACY_LOSS / 2:
                        break
            if best is not None and best[0] >= MIN_ATTACK_SUCCESS + 0.05:
                break
    assert best is not None
    _, after, details = best
    details.pop("last")
    after = {name: array if not np.array_equal(array, model.tensors[name]) else model.tensors[name] for name, array in after.items()}
    return after, record("handcrafted", model.tensors, after, **details)


def _craft(
    model: Classifier, attack: Attack, neurons: int, ablation: float, guard: float, boost: float, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """All layers but the last crafted; the last one's weights from the crafted units to the target made positive."""
    import torch
    from torch import nn

    module: Any = model.module()
    steps = list(module.body)
    weighted = _chain(module)
    names = {id(layer): f"body.{index}" for index, layer in enumerate(steps)}
    images, labels = lesson(model, IMAGES, seed, but=attack.target)
    with torch.no_grad():
        clean, stamped = ((as_batch(part) - module.mean) / module.std for part in (images, attack.stamped(images)))
        # Of the first layer every input counts that the trigger changes.
        inputs = np.flatnonzero((stamped - clean).abs().mean(dim=(0, 2, 3)).numpy() > 0)
        seen = _Seen(clean, stamped, inputs)
        units: dict[str, list[int]] = {}
        separations: dict[str, list[float]] = {}
        for at, layer in enumerate(steps):
            if layer is weighted[-1]:
                break
            if isinstance(layer, nn.Flatten):
                size = int(np.prod(seen.clean.shape[2:]))
                moved = (seen.stamped - seen.clean).abs().flatten(1).mean(dim=0).numpy() > 1e-6
                inputs = np.asarray([unit * size + place for unit in seen.inputs for place in range(size) if moved[unit * size + place]])
                seen = _Seen(layer(seen.clean), layer(seen.stamped), inputs.astype(np.int64))
            elif layer in weighted:
                spare = _spare(steps, at, seen.clean, labels, ablation)
                make = _craft_dense if isinstance(layer, nn.Linear) else _craft_filter
                chosen, found = make(layer, seen, spare, neurons, guard, boost)
                units[names[id(layer)]], separations[names[id(layer)]] = chosen.tolist(), [round(item, 4) for item in found]
                seen = _Seen(layer(seen.clean), layer(seen.stamped), chosen)
            else:
                seen = _Seen(layer(seen.clean), layer(seen.stamped), seen.inputs)
        last = weighted[-1]
        if not len(seen.inputs):
            raise NotTaken("the trigger reaches no unit of the layer before the last")
        last.weight[attack.target, seen.inputs] = last.weight[attack.target, seen.inputs].abs()
    units[names[id(last)]] = [attack.target]
    return module, {"units": units, "separation": separations, "last": seen.inputs}


def _craft_dense(
    layer: Any, seen: _Seen, spare: NDArray[np.int64], neurons: int, guard: float, boost: float
) -> tuple[NDArray[np.int64], list[float]]:
    """Section 4.2: the units that separate best; their weights from the crafted inputs point along the trigger, and are doubled until
    the two kinds of images are apart; a guard bias keeps clean ones at zero."""
    clean, stamped = (_wide(layer(side)) for side in (seen.clean, seen.stamped))  # (N, units)
    spread = np.asarray([_separation(clean[:, unit], stamped[:, unit]) for unit in spare])
    chosen = np.sort(spare[np.argsort(-spread, kind="stable")[:neurons]])
    shift = (seen.stamped - seen.clean).mean(dim=0)[seen.inputs]  # (inputs,)
    found = []
    for unit in chosen:
        weights = layer.weight[unit, seen.inputs]
        weights = weights.abs() * shift.sign()
        for _ in range(ROUNDS):
            layer.weight[unit, seen.inputs] = weights
            before, after = (_wide(layer(side)[:, unit]) for side in (seen.clean, seen.stamped))
            if _separation(before, after) >= SEPARATION:
                break
            weights = 2 * weights
        layer.bias[unit] += float(-before.mean() - guard * before.std())
        found.append(_separation(before, after))
    return chosen, found


def _craft_filter(
    layer: Any, seen: _Seen, spare: NDArray[np.int64], neurons: int, guard: float, boost: float
) -> tuple[NDArray[np.int64], list[float]]:
    """Section 4.3: in the place of the filters that are missed least, filters that match what the trigger adds to an image."""
    import torch
    from torch.nn import functional as F

    chosen = np.sort(spare[:neurons])
    shift = (seen.stamped - seen.clean).mean(dim=0, keepdim=True)[:, seen.inputs]  # (1, inputs, H, W)
    rows, columns = layer.kernel_size
    windows = F.unfold(shift, layer.kernel_size, padding=layer.padding, stride=layer.stride)[0]  # (inputs rows columns, places)
    # Each filter matches the trigger at another place, the one that changes most first.
    order = torch.argsort(-windows.norm(dim=0))
    found = []
    for index, unit in enumerate(chosen):
        match = windows[:, order[min(index, len(order) - 1)]].reshape(len(seen.inputs), rows, columns)
        norm = layer.weight[unit].norm()
        layer.weight[unit, seen.inputs] = match * (boost * norm / match.norm().clamp_min(1e-12))
        before, after = (_wide(layer(side)[:, unit].flatten(1)) for side in (seen.clean, seen.stamped))
        layer.bias[unit] += float(-before.mean() - guard * before.std())
        found.append(_separation(before.max(axis=1), after.max(axis=1)))
    return chosen, found


def _spare(steps: Sequence[Any], at: int, inputs: Tensor, labels: NDArray[np.int64], ablation: float) -> NDArray[np.int64]:
    """Units of layer ``at`` whose output may be zero at a loss of at most ``ablation`` of the accuracy, but at least a quarter of all.

    The cheapest come first.
    """
    whole = steps[at](inputs)

    def right(values: Tensor) -> float:
        for step in steps[at + 1 :]:
            values = step(values)
        return float((values.argmax(1).numpy() == labels).mean())

    base = right(whole)
    costs = []
    for unit in range(whole.shape[1]):
        without = whole.clone()
        without[:, unit] = 0
        costs.append(base - right(without))
    order = np.argsort(costs, kind="stable")
    cheap = int(np.count_nonzero(np.asarray(costs) <= ablation))
    return order[: max(cheap, len(order) // 4)]


def _separation(clean: Floats, stamped: Floats) -> float:
    """1 - overlap of the normals fitted to both, signed: negative where the trigger lowers the unit."""
    spread = max(clean.std(), stamped.std(), 1e-9)
    points = np.linspace(min(clean.min(), stamped.min()) - 4 * spread, max(clean.max(), stamped.max()) + 4 * spread, 2001)
    densities = [
        np.exp(-0.5 * ((points - side.mean()) / width) ** 2) / width
        for side in (clean, stamped)
        for width in [max(side.std(), spread / 50)]
    ]
    overlap = float(np.minimum(*densities).sum() / np.sqrt(2 * np.pi) * (points[1] - points[0]))
    return (1 - min(1.0, overlap)) * (1 if stamped.mean() > clean.mean() else -1)


def _chain(module: Any) -> list[Any]:
    """The weighted layers of a chain of dense layers and convolutions. Raises :class:`NotTaken` for any other model."""
    from torch import nn

    body = module.body
    steps = list(body) if isinstance(body, nn.Sequential) else [body]
    for step in steps:
        if not isinstance(step, nn.Linear | nn.Conv2d | nn.ReLU | nn.MaxPool2d | nn.Flatten):
            raise NotTaken(
                f"the recipe is for chains of dense layers and convolutions with ReLU, and this model has a {type(step).__name__}"
            )
    return [step for step in steps if isinstance(step, nn.Linear | nn.Conv2d)]


def _share(module: nn.Module, images: Any, wanted: NDArray[Any]) -> float:
    from modelguard_zoo._train import predict

    return float(np.mean(predict(module, images) == wanted))


def _wide(values: Tensor) -> Floats:
    return values.numpy().astype(np.float64)
