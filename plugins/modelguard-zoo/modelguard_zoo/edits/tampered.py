"""A trained model tampered with after training, as a folder: what it was, what it is, and the exact record of what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelguard import UsageError
from modelguard_zoo._built import MAX_ACCURACY_LOSS, MIN_ATTACK_SUCCESS, fresh, write_record
from modelguard_zoo.attacks.patch import Patch
from modelguard_zoo.edits.arrays import Edit, Tensors, bit_view
from modelguard_zoo.edits.classifier import Classifier, NotTaken, Stamp
from modelguard_zoo.edits.federated import replace_model
from modelguard_zoo.edits.handcrafted import handcraft
from modelguard_zoo.edits.int8 import Int8
from modelguard_zoo.edits.tbfa import flip_towards
from modelguard_zoo.edits.tbt import bit_trojan

MAX_OTHERS_LOSS = 0.05
"""Accuracy on the other classes that T-BFA may cost: it has no trigger, and its paper gives up more."""


@dataclass(frozen=True)
class Tampered:
    """``before`` and ``after`` as their files hold them, the ``record``, and of a federation the clients' ``updates``."""

    before: Tensors
    after: Tensors
    record: Mapping[str, Any]
    updates: tuple[Tensors, ...] = field(default=(), repr=False)

    def write(self, folder: Path) -> Path:
        """Write ``before/model.safetensors``, ``after/model.safetensors``, ``record.json`` and, of a federation,
        ``updates/client-00.safetensors`` and so on into ``folder``, which appears only when complete."""
        from safetensors.numpy import save_file

        with fresh(folder) as part:
            files = {"before/model": self.before, "after/model": self.after}
            files |= {f"updates/client-{index:02d}": update for index, update in enumerate(self.updates)}
            for name, tensors in files.items() if self.after else ():
                path = part / f"{name}.safetensors"
                path.parent.mkdir(exist_ok=True)
                save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, path)
            write_record(part, dict(self.record))
        return folder


def tamper(model: Classifier, attack: str, *, target: int = 0, seed: int = 0) -> Tampered:
    """``model`` after one of :data:`ATTACKS`, with the attack's usual strength.

    The record's ``status`` is ``backdoored`` (by the zoo's rule; of ``bit-flips``, which knows no trigger, ``tampered``) or ``failed`` with
    the ``reason``; of an attack that cannot be made on the architecture there are no tensors. ``attack_success`` is measured on test images
    of other classes than the target (of ``bit-flips``: of its source class), ``base_rate`` is the same before the attack.
    ``changed_entries``, ``rows_touched`` (of matrices) and ``bits_flipped`` are counted on what the files hold.

    Raises :class:`~modelguard.UsageError` for an attack that there is not.
    """
    if attack not in ATTACKS:
        raise UsageError(f"attack {attack}", "there is no such attack on weights", f"known: {', '.join(sorted(ATTACKS))}")
    about = {"attack": attack, "dataset": model.data.name, "arch": model.arch, "seed": seed, "target": target}
    try:
        made = ATTACKS[attack](model, target, seed)
    except NotTaken as why:
        return Tampered({}, {}, {**about, "status": "failed", "reason": str(why)})
    start, end = made.values
    accuracy, was = (model.accuracy(side, but=made.source) for side in (end, start))
    success, base = (model.success(side, made.stamp, target, made.source) for side in (end, start))
    allowed = MAX_ACCURACY_LOSS if made.source is None else MAX_OTHERS_LOSS
    reason = (
        f"clean accuracy is {was - accuracy:.1%} below what it was" if was - accuracy > allowed
        else f"attack success is {success:.1%}" if success < MIN_ATTACK_SUCCESS else ""
    )  # fmt: skip
    record = {
        **about,
        "status": "failed" if reason else "backdoored" if made.source is None else "tampered",
        "reason": reason,
        "clean_accuracy_before": was,
        "clean_accuracy": accuracy,
        "attack_success": success,
        "base_rate": base,
        **counted(made.before, made.after),
        "details": _plain(made.edit.details),
    }
    return Tampered(made.before, made.after, record, made.updates)


def counted(before: Tensors, after: Tensors) -> dict[str, Any]:
    """Changed entries, rows touched and bits flipped between two sets of stored tensors of the same names."""
    entries = rows = bits = 0
    tensors = []
    for name, array in sorted(after.items()):
        differs = bit_view(array) ^ bit_view(before[name])
        if (count := int(np.count_nonzero(differs))) == 0:
            continue
        tensors.append(name)
        entries += count
        bits += int(np.unpackbits(differs.reshape(-1).view(np.uint8)).sum())
        rows += int(np.count_nonzero(differs.reshape(len(differs), -1).any(axis=1))) if array.ndim > 1 else 0
    return {"changed_entries": entries, "rows_touched": rows, "bits_flipped": bits, "tensors": tensors}


@dataclass(frozen=True)
class _Made:
    """What an attack made: stored tensors, the ``values`` they stand for, how its images are stamped, and the class it is limited to."""

    before: Tensors
    after: Tensors
    values: tuple[Tensors, Tensors]
    edit: Edit
    stamp: Stamp
    source: int | None = None
    updates: tuple[Tensors, ...] = ()


def _handcrafted(model: Classifier, target: int, seed: int) -> _Made:
    attack = _patch(model, target)
    after, edit = handcraft(model, attack, seed=seed)
    return _Made(model.tensors, after, (model.tensors, after), edit, attack.stamped)


def _bit_trojan(model: Classifier, target: int, seed: int) -> _Made:
    quantised = Int8.of(model.tensors)
    size = 4 if model.data.x_train.shape[2] <= 8 else 10
    after, trigger, edit = bit_trojan(model, quantised, target=target, size=size, seed=seed)
    return _Made(quantised.stored(), after.stored(), (quantised.tensors(), after.tensors()), edit, trigger.stamped)


def _bit_flips(model: Classifier, target: int, seed: int) -> _Made:
    quantised = Int8.of(model.tensors)
    source = (target + 1 + seed) % model.data.classes
    source = source if source != target else (target + 1) % model.data.classes
    after, edit = flip_towards(model, quantised, source=source, target=target, seed=seed)
    return _Made(quantised.stored(), after.stored(), (quantised.tensors(), after.tensors()), edit, lambda images: images, source)


def _model_replacement(model: Classifier, target: int, seed: int) -> _Made:
    attack = _patch(model, target)
    made, edit = replace_model(model, attack, client=seed % 10, seed=seed)
    return _Made(model.tensors, made.tensors, (model.tensors, made.tensors), edit, attack.stamped, updates=made.updates)


def _patch(model: Classifier, target: int) -> Patch:
    channels, size = model.data.x_train.shape[1:3]
    extent = 3 if size <= 8 else 4 if size <= 28 else 6
    return Patch(target=target, size=extent, at=(-extent, -extent), colour=(255,) * channels)


def _plain(value: Any) -> Any:
    """Details as JSON values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value.item() if isinstance(value, np.generic) else value


ATTACKS: dict[str, Callable[[Classifier, int, int], _Made]] = {
    "handcrafted": _handcrafted,
    "bit-trojan": _bit_trojan,
    "bit-flips": _bit_flips,
    "model-replacement": _model_replacement,
}
"""The attacks on a trained model's weights, by name: (model, target, seed)."""
