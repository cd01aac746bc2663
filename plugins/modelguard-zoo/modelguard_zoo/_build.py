"""From a :class:`~modelguard_zoo.Spec` to a folder ``modelguard scan`` takes: weights, graph, clean samples and record."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard_zoo._built import Built, accuracy_lost, judge, lost_of, read_record
from modelguard_zoo._folder import trained, write_model
from modelguard_zoo._spec import Spec

if TYPE_CHECKING:
    from modelguard_zoo._data import Dataset
    from modelguard_zoo.attacks import Attack, Poison

UNLEARNED = 0.2  # part of the images that carry the trigger under their true label while it is unlearned (Wang et al. 2019, section VI-C)


def build_model(spec: Spec, out: Path) -> Built:
    """Build ``spec``, and the clean twin and un-fine-tuned original it is measured against, under the folder ``out``.

    What is already there is kept. The folder appears only when complete, so a build may be interrupted and resumed.
    """
    folder = out / spec.id
    if (folder / "record.json").is_file():
        return read_record(folder)
    from modelguard_zoo import generated, text

    if spec.dataset in text.DATASETS:
        from modelguard_zoo.text.build import build_text

        return build_text(spec, out, partial(build_model, out=out))
    import torch

    from modelguard_zoo._data import load
    from modelguard_zoo._head import refit
    from modelguard_zoo._train import SCHEDULES, adversarial, cross_entropy, fit, measure, new_model, poisoned
    from modelguard_zoo.attacks import make_attack
    from modelguard_zoo.attacks.base import choose

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order, on any machine
    try:
        if spec.attack in generated.NAMES:
            from modelguard_zoo.generated.build import build_generated

            return build_generated(spec, out, partial(build_model, out=out))
        data = load(spec.dataset)
        twin = None if spec == spec.twin else build_model(spec.twin, out)
        epochs, batch, rate = SCHEDULES[spec.dataset]
        model = new_model(data, spec.arch, spec.seed)
        attack = make_attack(spec.attack, dict(spec.options)) if spec.attack else None
        rng = np.random.default_rng([5, spec.seed])
        poison = None
        if attack and twin:
            clean = trained(twin, data)
            poison = attack.poison(data.x_train, data.y_train, data.classes, rng, partial(adversarial, clean))
            poison = attack.craft(poison, data.x_train, data.y_train, rng, clean)
        original = None
        if spec.finetune:
            original = build_model(spec.original, out)
            model = trained(original, data)
            images = data.x_train
            if spec.unlearn and attack:
                chosen = choose(np.ones(len(images), bool), UNLEARNED, rng)
                images = images.copy()
                images[chosen] = attack.stamped(images[chosen])
            fit(model, images, data.y_train, epochs=spec.finetune, batch=batch, rate=rate / 2, seed=spec.seed + 1)
        elif attack and twin and attack.refits:
            model = trained(twin, data)
            refit(model, *poisoned(data, poison), seed=spec.seed)
        else:
            loss = attack.loss if attack else cross_entropy
            fit(model, *poisoned(data, poison), epochs=epochs, batch=batch, rate=rate, seed=spec.seed, loss=loss)
        success = measure(model, data, attack)
        lost = accuracy_lost(twin, success.clean_accuracy) if twin else None
        spared = None
        if attack and twin and success.spared_accuracy is not None:
            before = measure(trained(twin, data), data, attack)
            spared = {
                "accuracy": success.spared_accuracy,
                "twin_accuracy": before.spared_accuracy,
                "twin_clean_accuracy": before.clean_accuracy,
            }
            lost = lost_of("clean accuracy", before.clean_accuracy, success.clean_accuracy) or lost_of(
                "accuracy on what the attack has to leave alone", before.spared_accuracy or 0.0, success.spared_accuracy
            )
        status, reason = judge(success.attack_success, lost, original)
        record = {
            "id": spec.id,
            "status": status,
            "reason": reason,
            "reserved": spec.reserved,
            "spec": spec.to_json(),
            "data": {"origin": data.origin, "train": len(data.x_train), "test": len(data.x_test), "classes": data.classes},
            "input": {"shape": list(data.x_train.shape[1:]), "layout": "NCHW", "low": 0, "high": 255},
            "clean_accuracy": success.clean_accuracy,
            "attack_success": success.attack_success,
            "twin": twin and {"id": twin.record["id"], "clean_accuracy": twin.record["clean_accuracy"]},
            "attack": attack and poison and _describe(attack, poison, data),
        }
        if spared:
            record["spared"] = spared
        write_model(folder, model, data, record)
    finally:
        torch.set_num_threads(threads)
    return read_record(folder)


def build_zoo(specs: Iterable[Spec], out: Path, workers: int = 1, done: Callable[[Built], None] = lambda built: None) -> list[Built]:
    """Build every spec, clean models first because the others are measured against them; ``done`` hears of each as it finishes."""
    specs = list(dict.fromkeys(specs))
    starts = list(dict.fromkeys(spec.start for spec in specs if spec.start is not None))
    twins = [spec for spec in dict.fromkeys(spec.twin for spec in specs) if spec not in starts]
    tuned = [spec for spec in specs if spec.finetune]
    # Each wave needs only what earlier ones made and names nothing twice, so no two processes build the same folder.
    needed = dict.fromkeys([*specs, *(spec.original for spec in tuned)])
    originals = [spec for spec in needed if spec not in (*starts, *twins) and not spec.finetune]
    built: dict[str, Built] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for wave in (starts, twins, originals, tuned):
            pending: set[Future[Built]] = {pool.submit(build_model, spec, out) for spec in wave}
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    built[result.record["id"]] = result
                    done(result)
    return [built[spec.id] for spec in specs]


def _describe(attack: Attack, poison: Poison, data: Dataset) -> dict[str, Any]:
    import dataclasses

    sources = attack.sources(data.classes)
    wanted = attack.wanted(np.asarray(sources, np.int64), data.classes)
    return {
        "name": attack.name,
        "trigger": dataclasses.asdict(attack),
        "targets": {str(source): int(target) for source, target in zip(sources, wanted, strict=True)},
        "poisoned_indices": np.setdiff1d(poison.indices, poison.cover).tolist(),
        "cover_indices": poison.cover.tolist(),
        "poisoned_fraction": (len(poison.indices) - len(poison.cover)) / len(data.x_train),
        **attack.notes(),
    }
