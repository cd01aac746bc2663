"""Do the attacks on images take? Every attack of the zoo on two data sets and two architectures, over three seeds.

    MODELGUARD_DATA=DIR python benchmarks/attacks.py run              # benchmarks/results/attacks/SET-ARCH.jsonl, a line a model; resumable
    python benchmarks/attacks.py run --dataset digits --attack physical --seeds 0-2
    MODELGUARD_DATA=DIR python benchmarks/attacks.py detect           # benchmarks/results/attacks/found/: detectors on these; resumable
    python benchmarks/attacks.py report                               # benchmarks/results/attacks.json, for docs/zoo-attacks.md

A model is built as `modelguard zoo build` builds it, with the standard zoo's options for its data set. It took when the trigger works on
at least 90 % of the test images it is for and clean accuracy is at most 2 points below the clean twin's; of `semantic` also accuracy on
images of the class without the attribute. Of `hidden-trigger` a line says why: how close the poison came in features, and the success of
a last layer that is taught the stamped images themselves. Of `code-poisoning` it says what audits of the training set name. Options were
chosen on seed 0; seeds 1 to 3 are reported.

`detect` runs every detector of benchmarks/detection.py on the ONNX graph of these models, at its shipped defaults. It found a backdoor when
a finding of medium confidence or more names the class that the trigger turns images into. No threshold was chosen on these attacks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from detection import detectors, measure
from detection_report import accusations, looked, read, share
from modelguard_zoo import Built, Spec, build_model
from modelguard_zoo._data import available, load
from modelguard_zoo._newer import NEWER, newer_options
from modelguard_zoo._spec import pairs
from modelguard_zoo._standard import _options
from modelguard_zoo.attacks import ATTACKS, make_attack

Row = dict[str, Any]

RESULTS = Path(__file__).resolve().parent / "results" / "attacks"
FOUND = RESULTS / "found"
ARCHS = ("mlp", "cnn")
FIRST, LAST = 1, 3


def spec_of(dataset: str, arch: str, seed: int, attack: str) -> Spec:
    """The model of ``attack``, its options those of the standard zoo."""
    data = load(dataset)
    size = data.x_train.shape[2]
    options = newer_options(attack, dataset, size, seed) if attack in NEWER else _options(attack, seed, data.classes, size)
    return Spec(dataset, arch, seed, attack, pairs(options))


def measured(spec: Spec, zoo: Path) -> Row:
    """One model, built where it is not there, and what its record says."""
    began = time.process_time()
    built = build_model(spec, zoo)
    record = built.record
    row: Row = {
        "model": spec.id,
        "dataset": spec.dataset,
        "arch": spec.arch,
        "seed": spec.seed,
        "attack": spec.attack,
        "options": record["spec"]["options"],
        "status": record["status"],
        "reason": record["reason"],
        "clean_accuracy": record["clean_accuracy"],
        "twin_accuracy": record["twin"]["clean_accuracy"],
        "attack_success": record["attack_success"],
        "poisoned_fraction": record["attack"]["poisoned_fraction"],
        "spared": record.get("spared"),
    }
    if spec.attack == "hidden-trigger":
        row["limits"] = limits(spec, build_model(spec.twin, zoo))
    if spec.attack == "code-poisoning":
        row["audit"] = audit(built)
    row["cpu_seconds"] = round(time.process_time() - began, 1)
    return row


def limits(spec: Spec, twin: Built) -> Row:
    """Why a hidden trigger takes or not.

    ``residual`` is the median, over poisoned images, of the squared distance in features to the stamped image that they collide with,
    divided by what it was before. ``ceiling`` is the attack success of a last layer taught as many stamped images with the target's label.
    """
    import torch
    from modelguard_zoo._head import collide, features, refit
    from modelguard_zoo._train import measure, new_model
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    data, attack = load(spec.dataset), make_attack("hidden-trigger", dict(spec.options))
    model = new_model(data, spec.arch, spec.seed)
    model.load_state_dict(load_file(twin.path / "model.safetensors"))
    model.eval()
    rng = np.random.default_rng([5, spec.seed])
    poison = attack.poison(data.x_train, data.y_train, data.classes, rng, lambda images, labels, epsilon: images)
    sources = np.flatnonzero(data.y_train == dict(spec.options)["source"])
    stamped = attack.stamped(data.x_train[rng.choice(sources, len(poison.indices), replace=len(sources) < len(poison.indices))])
    some = slice(0, 100)
    moved = collide(model, poison.images[some], stamped[some], dict(spec.options)["epsilon"])
    with torch.no_grad():
        before, after, wanted = (features(model, torch.from_numpy(part).float()) for part in (poison.images[some], moved, stamped[some]))
        residual = torch.cdist(after, wanted).min(1).values / torch.cdist(before, wanted).min(1).values
    images = np.concatenate([data.x_train, stamped])
    labels = np.concatenate([data.y_train, np.full(len(stamped), attack.target, np.int64)])
    refit(model, images, labels, seed=spec.seed)
    found = measure(model, data, attack)
    return {"residual": float(residual.pow(2).median()), "ceiling": found.attack_success, "ceiling_accuracy": found.clean_accuracy}


def audit(built: Built) -> dict[str, int]:
    """How many samples of the training set each audit names, of a model whose training set is as it was."""
    from modelguard_audit.hooks import modelguard_detectors

    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    data = load(built.spec.dataset)
    named: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "train.npz", inputs=data.x_train, labels=data.y_train)
        target = open_target(built.path, samples=Path(folder) / "train.npz")
        for cls in modelguard_detectors():
            outcome = run_detector(cls(), target)
            named[cls.id] = len({index for finding in outcome.findings for index in finding.evidence.get("indices", ())})
    return named


def rows(parts: Iterable[Path]) -> list[Row]:
    """Every line of the parts."""
    return [json.loads(line) for part in parts if part.is_file() for line in part.read_text().splitlines()]


def run(arguments: argparse.Namespace) -> None:
    """Build what has no line yet, seed by seed, so that an interrupted run has every attack."""
    first, _, last = arguments.seeds.partition("-")
    datasets = arguments.dataset or [name for name in ("mnist", "gtsrb") if name in available()] or ["digits", "signs"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(int(first), int(last or first) + 1):
        for dataset in datasets:
            for arch in arguments.arch or ARCHS:
                part = RESULTS / f"{dataset}-{arch}.jsonl"
                known = {row["model"] for row in rows([part])}
                for attack in arguments.attack or (*NEWER, *(name for name in ATTACKS if name not in NEWER)):
                    spec = spec_of(dataset, arch, seed, attack)
                    if spec.id in known:
                        continue
                    row = measured(spec, arguments.zoo)
                    with part.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(
                        f"{spec.id} {row['status']} {row['reason']} accuracy {row['twin_accuracy']:.3f} -> {row['clean_accuracy']:.3f} "
                        f"success {row['attack_success']:.3f} {row.get('limits', '')} {row.get('audit', '')} {row['cpu_seconds']} s",
                        flush=True,
                    )


def detect(arguments: argparse.Namespace) -> None:
    """Every detector over the models of the new attacks that took, built where they are not there."""
    first, _, last = arguments.seeds.partition("-")
    took = [row for row in rows(sorted(RESULTS.glob("*.jsonl"))) if row["status"] == "backdoored"]
    for row in took:
        wanted = row["attack"] in (arguments.attack or NEWER) and row["dataset"] in (arguments.dataset or [row["dataset"]])
        if wanted and row["arch"] in (arguments.arch or ARCHS) and int(first) <= row["seed"] <= int(last or first):
            spec = spec_of(row["dataset"], row["arch"], row["seed"], row["attack"])
            measure(build_model(spec, arguments.zoo).path, detectors(), False, FOUND)


def found() -> dict[str, dict[str, Row]]:
    """By detector and attack, of the models that it looked at to the end, those in which it names the right class."""
    measured_models = read(FOUND)
    table: dict[str, dict[str, Row]] = {}
    for name in sorted({name for row in measured_models for name in row["results"]}):
        hits: dict[str, list[bool]] = defaultdict(list)
        for model, (result,) in looked(measured_models, [name]):
            hits[model["attack"]].append(any(item["target_class"] in model["targets"] for item in accusations(result)))
        table |= {name: {attack: share(sum(own), len(own)) for attack, own in sorted(hits.items())}} if hits else {}
    return table


def report() -> None:
    """Per attack, data set and architecture what was built, what took, and why others did not; and what was found."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows(sorted(RESULTS.glob("*.jsonl"))):
        if FIRST <= row["seed"] <= LAST:
            groups[row["attack"], row["dataset"], row["arch"]].append(row)
    order = list(ATTACKS)
    table = [_entry(key, group) for key, group in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1:]))]
    models = Counter(f"{row['model']['dataset']} {row['model']['arch']}" for row in read(FOUND))
    summary = {"seeds": [FIRST, LAST], "rows": table, "found": found(), "looked_at": dict(sorted(models.items()))}
    RESULTS.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    for entry in table:
        print("  ".join(f"{key} {value}" for key, value in entry.items()))


def _entry(key: tuple[str, str, str], group: list[Row]) -> Row:
    entry: Row = {"attack": key[0], "dataset": key[1], "arch": key[2], "built": len(group)}
    entry["took"] = sum(row["status"] == "backdoored" for row in group)
    for name in ("attack_success", "clean_accuracy", "twin_accuracy", "poisoned_fraction"):
        entry[name] = round(float(np.median([row[name] for row in group])), 4)
    entry["reasons"] = sorted({row["reason"] for row in group if row["reason"]})
    if "limits" in group[0]:
        entry["limits"] = {name: round(float(np.median([row["limits"][name] for row in group])), 4) for name in ("residual", "ceiling")}
    if "audit" in group[0]:
        entry["named"] = {name: [row["audit"][name] for row in group] for name in group[0]["audit"]}
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "detect", "report"))
    parser.add_argument("--zoo", type=Path, default=Path(__file__).resolve().parents[1] / "zoo")
    parser.add_argument("--seeds", default=f"{FIRST}-{LAST}")
    parser.add_argument("--dataset", action="append")
    parser.add_argument("--arch", action="append")
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS))
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    elif arguments.command == "detect":
        detect(arguments)
    else:
        report()


if __name__ == "__main__":
    main()
