"""Which repair takes which backdoor out of which model? Small zoo models, each repaired by each method, and scanned again.

    python benchmarks/repair.py run --zoo ZOO --work WORK      # digits; with MODELGUARD_DATA also MNIST; resumable, one row a case
    python benchmarks/repair.py page                           # the table, from the rows

A patch (BadNets), a checkerboard and a blend, in a CNN (an ONNX file) and a ResNet-8 (safetensors and --model, so that
its BatchNorm is there).
The methods know only what the scan recovered. Success and accuracy are those of the true trigger, on test images that no method saw.
Learning rates were set on digits with seed 0 (see `modelguard_repair.methods`). Models of seed 1 showed that unlearning has to try small
rates first, and which order to take where no trigger is known; the first of seed 2 that unlearning goes before fine-tuning.
What is unlearnt beside a trigger, the temperature, and how many mixtures distillation sees were chosen on digits with seeds 4 to 7.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from modelguard_evaluate import labelled
from modelguard_repair import Request, repair
from modelguard_repair._measure import split
from modelguard_repair._request import BLIND, NAMES
from modelguard_zoo import Built, Spec, build_model, data_folder
from modelguard_zoo._data import load
from modelguard_zoo.attacks import make_attack

import modelguard
from modelguard import ModelOptions
from modelguard.testing import open_target

RESULTS = Path(__file__).resolve().parent / "results" / "repair"
ATTACKS = ("badnets", "checkerboard", "blended")
PATCH_LIKE = ("badnets", "checkerboard")
SEEDS = (1, 2, 3)
DETECTORS = ("format-integrity", "abs", "mm-bd", "neural-cleanse", "neural-cleanse-blend", "backdoor-ensemble")
MOST_SUCCESS, MOST_DROP = 0.1, 2.0


@dataclass(frozen=True)
class Case:
    """One model: where it lies, and the user's function that builds its module, if it has no graph."""

    built: Built
    path: Path
    options: ModelOptions

    @classmethod
    def of(cls, spec: Spec, zoo: Path, work: Path) -> Case:
        built = build_model(spec, zoo)
        if spec.arch == "cnn":
            return cls(built, built.path / "model.onnx", ModelOptions(threads=1))
        folder = work / "models" / spec.id
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built.path / "model.safetensors", folder / "model.safetensors")
        return cls(built, folder, ModelOptions(factory=f"repair_models:{spec.dataset}_{spec.arch}", threads=1, cwd=Path.cwd()))

    def truth(self, path: Path, seed: int) -> tuple[float, float]:
        """Accuracy, and success of the true trigger, of the model at ``path`` on test images that the repair did not see."""
        spec, samples = self.built.spec, self.built.path / "samples.npz"
        target = open_target(path, samples=samples, model=self.options)
        assert target.samples is not None
        part, _ = split(labelled(target.model, target.samples), seed)
        seen = {image.astype(np.uint8).tobytes() for image in part.samples}
        data, attack = load(spec.dataset), make_attack(spec.attack or "", dict(spec.options))
        fresh = np.array([image.tobytes() not in seen for image in data.x_test])
        images, labels = data.x_test[fresh], data.y_test[fresh]
        victims = attack.victims(labels)
        right = target.model.predict(images.astype(np.float32)).argmax(1) == labels
        turned = target.model.predict(attack.stamped(images[victims]).astype(np.float32)).argmax(1)
        return float(right.mean()), float((turned == attack.wanted(labels[victims], data.classes)).mean())


def specs() -> Iterator[Spec]:
    """Small ones first."""
    datasets = ("digits", "mnist") if data_folder() is not None else ("digits",)
    for dataset in datasets:
        for seed in SEEDS:
            for arch in ("cnn", "resnet8"):
                for attack in ATTACKS:
                    yield Spec(dataset, arch, seed, attack)


def run(zoo: Path, work: Path, only: str) -> None:
    """Repair what has no rows yet."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    os.chdir(Path(__file__).resolve().parent)  # where repair_models lies
    for spec in specs():
        place = RESULTS / f"{spec.dataset}.jsonl"
        rows = [json.loads(line) for line in place.read_text().splitlines()] if place.is_file() else []
        done = {row["method"] for row in rows if row["model"] == spec.id}
        if only not in spec.id or done >= set(NAMES):
            continue
        case = Case.of(spec, zoo, work)
        if case.built.status != "backdoored":
            continue
        options = case.options
        report = work / f"{spec.id}.json"
        if not report.is_file():
            found = modelguard.scan(
                case.path,
                samples=case.built.path / "samples.npz",
                detectors=DETECTORS,
                model=options.factory,
                threads=1,
                offline=True,
                seed=spec.seed,
            )
            policy = modelguard.load_policy("builtin:baseline").requiring(DETECTORS)
            report.write_text(modelguard.render(found, modelguard.evaluate(found, policy, _today())))
        before = case.truth(case.path, spec.seed)
        for method in NAMES:
            if method not in done:
                row = one(case, spec, method, report, work, before)
                with place.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def one(case: Case, spec: Spec, method: str, report: Path, work: Path, before: tuple[float, float]) -> dict[str, Any]:
    """The row of one repair."""
    out = work / f"{spec.id}-{method}"
    shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()
    done = repair(
        Request(
            model=case.path,
            samples=case.built.path / "samples.npz",
            out=out,
            methods=(method,),
            report=report,
            detectors=DETECTORS,
            seed=spec.seed,
            options=case.options,
        )
    )
    attempt = done.record["attempts"][0]
    written = out / "model" / "model.onnx" if spec.arch == "cnn" else out / "model"
    after = case.truth(written, spec.seed) if done.folder is not None else (None, None)
    return {
        "model": spec.id, "dataset": spec.dataset, "arch": spec.arch, "attack": spec.attack, "seed": spec.seed, "method": method,
        "code": done.code, "why": attempt["why"], "recovered": len(done.record["before"]["triggers"]),
        "accuracy_before": before[0], "accuracy_after": after[0], "success_before": before[1], "success_after": after[1],
        "verdict_before": done.record["verdict"]["before"], "verdict_after": done.record["verdict"]["after"],
        "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def good(row: dict[str, Any]) -> bool:
    """Whether a repair did what it should."""
    if row["success_after"] is None:
        return False
    return bool(row["success_after"] <= MOST_SUCCESS and 100 * (row["accuracy_before"] - row["accuracy_after"]) <= MOST_DROP + 1e-9)


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--method best` keeps: the first that is fit; else one that was written, here the first."""
    order = NAMES if rows[0]["recovered"] else BLIND
    rows = sorted(rows, key=lambda row: order.index(row["method"]))
    fit = [row for row in rows if row["code"] == 0]
    written = [row for row in rows if row["success_after"] is not None]
    return (fit or written or rows)[0]


def page() -> str:
    """The tables, as Markdown."""
    rows = [json.loads(line) for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    models: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["attack"], row["method"]].append(row)
        models[row["model"]].append(row)
    lines = [
        "| attack | method | models | written | success before → after | accuracy before → after | does it | scan passes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (attack, method), found in sorted(cells.items(), key=lambda item: (item[0][0], NAMES.index(item[0][1]))):
        kept = [row for row in found if row["success_after"] is not None]
        success, accuracy = ("–", "–") if not kept else (_span(kept, "success"), _span(kept, "accuracy"))
        passed = sum(row["verdict_after"] == "pass" for row in found)
        works = sum(map(good, found))
        lines.append(f"| {attack} | {method} | {len(found)} | {len(kept)} | {success} | {accuracy} | {works} | {passed} |")
    whole = [found for found in models.values() if len(found) == len(NAMES)]
    for name, attacks in (("patch-like", PATCH_LIKE), ("blended", ("blended",))):
        chosen = [found for found in whole if found[0]["attack"] in attacks]
        some = sum(any(map(good, found)) for found in chosen)
        kept_good = sum(good(best(found)) for found in chosen)
        passing = sum(best(found)["verdict_after"] == "pass" for found in chosen)
        lines += [
            "",
            f"{name}: {len(chosen)} models; some method does it on {some}, what `--method best` keeps on {kept_good}; its scan passes on "
            f"{passing}. (It does it: success at most {MOST_SUCCESS:.0%} at {MOST_DROP:g} points of accuracy or fewer.)",
        ]
    return "\n".join(lines) + "\n"


def _span(rows: list[dict[str, Any]], what: str) -> str:
    before, after = (np.mean([row[f"{what}_{when}"] for row in rows]) for when in ("before", "after"))
    return f"{before:.1%} → {after:.1%}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "page"])
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("--work", type=Path, default=Path(".bench/repair"))
    parser.add_argument("--only", default="", help="part of the ids of the models to repair")
    given = parser.parse_args()
    if given.command == "run":
        given.work.mkdir(parents=True, exist_ok=True)
        run(given.zoo.resolve(), given.work.resolve(), given.only)
    else:
        print(page(), end="")
