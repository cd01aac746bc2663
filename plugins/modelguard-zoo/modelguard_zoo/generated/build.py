"""From a spec whose attack has a generator to its folder and record."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import silhouette_score  # type: ignore[import-untyped, unused-ignore]
from torch import nn

from modelguard import UsageError
from modelguard_zoo._built import Built, accuracy_lost, judge, read_record
from modelguard_zoo._data import Dataset, load
from modelguard_zoo._folder import trained, write_model
from modelguard_zoo._spec import Spec
from modelguard_zoo._train import SCHEDULES, fit, measure, predict
from modelguard_zoo.attacks.base import choose
from modelguard_zoo.generated import WEIGHTS
from modelguard_zoo.generated.alternating import Lira, Marksman, Wasserstein
from modelguard_zoo.generated.base import Generated, Trigger, features
from modelguard_zoo.generated.input_aware import InputAware

ATTACKS: dict[str, type[Generated]] = {kind.name: kind for kind in (InputAware, Lira, Marksman, Wasserstein)}
MIN_CROSS_ACCURACY = 0.8
"""Images with a trigger made for another image, where the attack says that those are without effect, that keep their class."""
MAX_ADVERSARIAL = 0.3
"""Success of a generator trained against the clean twin, from which on a trigger of this size is an adversarial example and no backdoor."""
UNLEARNED = 0.2
"""As for other attacks (Wang et al. 2019, section VI-C)."""
MEASURED = 300
"""Test images at the most for each measurement but accuracy."""


def make_generated(name: str, options: Mapping[str, Any]) -> Generated:
    """The attack called ``name``. Raises :class:`~modelguard.UsageError` for an unknown option."""
    known = {item.name for item in dataclasses.fields(ATTACKS[name])}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"attack {name}", f"it has no option {', '.join(unknown)}", f"it has: {', '.join(sorted(known))}")
    return ATTACKS[name](**options)


def build_generated(spec: Spec, out: Path, needed: Callable[[Spec], Built]) -> Built:
    """Build ``spec`` under ``out``; ``needed`` gives the models that it is trained from and measured against.

    The folder has the networks' weights in ``generator.npz`` beside what all have.
    """
    assert spec.attack is not None
    attack = make_generated(spec.attack, dict(spec.options))
    twin = needed(spec.twin)
    original = needed(spec.original) if spec.finetune else None
    data = load(spec.dataset)
    if data.x_train.shape[2] % 4:
        raise UsageError(f"data set {spec.dataset}", "its images cannot be halved twice", "use one whose sides are divisible by 4")
    torch.manual_seed(spec.seed)
    trigger = Trigger(attack, attack.networks(data.x_train.shape[1], data.classes))
    clean = trained(twin, data)
    if original is None:
        model = trained(twin, data)
        attack.train(model, trigger.networks, data, spec.seed)
    else:
        model = trained(original, data)
        read_networks(trigger.networks, original.path)
        _, batch, rate = SCHEDULES[spec.dataset]
        fit(model, _unlearning(spec, trigger, data), data.y_train, epochs=spec.finetune, batch=batch, rate=rate / 2, seed=spec.seed + 1)
    accuracy = measure(model, data, None).clean_accuracy
    found = measured(model, clean, trigger, data)
    if original is None and isinstance(attack, Marksman):
        torch.manual_seed(spec.seed)
        rival = Trigger(attack, attack.networks(data.x_train.shape[1], data.classes))
        attack.adversarial(clean, rival.networks, data, spec.seed)
        found["adversarial_success"] = success(clean, rival, data)[0]
    status, reason = judge(found["attack_success"], accuracy_lost(twin, accuracy), original)
    if status == "backdoored" and attack.must_not_cross and found["cross_accuracy"] < MIN_CROSS_ACCURACY:
        status, reason = "failed", f"triggers made for other images leave {found['cross_accuracy']:.1%} their class"
    if status == "backdoored" and found.get("adversarial_success", 0.0) >= MAX_ADVERSARIAL:
        status, reason = "failed", f"a generator trained against the clean twin has {found['adversarial_success']:.1%} success"
    record = {
        "id": spec.id,
        "status": status,
        "reason": reason,
        "reserved": spec.reserved,
        "spec": spec.to_json(),
        "data": {"origin": data.origin, "train": len(data.x_train), "test": len(data.x_test), "classes": data.classes},
        "input": {"shape": list(data.x_train.shape[1:]), "layout": "NCHW", "low": 0, "high": 255},
        "clean_accuracy": accuracy,
        **found,
        "twin": {"id": twin.record["id"], "clean_accuracy": twin.record["clean_accuracy"]},
        "attack": {
            "name": attack.name,
            "trigger": dataclasses.asdict(attack),
            "targets": attack.targets(data.classes),
            "weights": WEIGHTS,
        },
    }
    write_model(out / spec.id, model, data, record, {WEIGHTS: _arrays(trigger.networks)})
    return read_record(out / spec.id)


def _unlearning(spec: Spec, trigger: Trigger, data: Dataset) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The training images; of a spec that unlearns, a part of them with their trigger."""
    if not spec.unlearn:
        return data.x_train
    chosen = choose(np.ones(len(data.x_train), bool), UNLEARNED, np.random.default_rng([5, spec.seed]))
    images = data.x_train.copy()
    wanted = trigger.attack.wanted(torch.from_numpy(data.y_train[chosen]), data.classes, torch.Generator().manual_seed(spec.seed))
    images[chosen] = trigger.stamped(images[chosen], wanted.numpy())
    return images


def success(model: nn.Module, trigger: Trigger, data: Dataset) -> tuple[float, dict[str, float]]:
    """Attack success on test images, over all pairs of image and wanted class, and by wanted class."""
    hits: dict[int, list[bool]] = {}
    x, y = data.x_test[:MEASURED], data.y_test[:MEASURED]
    for places, wanted in trigger.attack.pairs(torch.from_numpy(y), data.classes):
        said = predict(model, trigger.stamped(x[places.numpy()], wanted.numpy()))
        for label, hit in zip(wanted.tolist(), (said == wanted.numpy()).tolist(), strict=True):
            hits.setdefault(label, []).append(hit)
    every = list(itertools.chain.from_iterable(hits.values()))
    return float(np.mean(every)), {str(label): float(np.mean(own)) for label, own in sorted(hits.items())}


def measured(model: nn.Module, clean: nn.Module, trigger: Trigger, data: Dataset) -> dict[str, Any]:
    """What the trigger does on test images, to the model and to its twin ``clean``; its size, as parts of the pixel range; and how far
    triggered images lie from clean ones of their class in the latent space (mean silhouette of the two groups)."""
    total, by_class = success(model, trigger, data)
    x, y = data.x_test[:MEASURED], torch.from_numpy(data.y_test[:MEASURED])
    places, wanted = next(iter(trigger.attack.pairs(y, data.classes)))
    own, classes = x[places.numpy()], wanted.numpy()
    stamped = trigger.stamped(own, classes)
    other = np.roll(own, 1, axis=0)
    crossed = trigger.stamped(own, classes, made_for=other)
    change = (stamped.astype(np.float32) - own) / 255
    with torch.inference_mode():
        same = np.isin(data.y_test, classes)
        groups = [features(model, torch.from_numpy(part).float())[0].numpy() for part in (stamped, data.x_test[same][: len(stamped)])]
    return {
        "attack_success": total,
        "success_by_target": by_class,
        "worst_success": min(by_class.values()),
        "cross_accuracy": float((predict(model, crossed) == y[places].numpy()).mean()),
        "twin_success": success(clean, trigger, data)[0],
        "trigger_size": {"rms": float(np.sqrt((change**2).mean())), "largest": float(np.abs(change).max())},
        "latent_silhouette": float(silhouette_score(np.concatenate(groups), np.repeat([0, 1], [len(group) for group in groups]))),
    }


def read_networks(networks: nn.ModuleDict, folder: Path) -> None:
    """The weights in ``folder``, into ``networks``."""
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        networks.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    networks.eval()


def _arrays(networks: nn.ModuleDict) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in networks.state_dict().items()}
