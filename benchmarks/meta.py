"""Does meta neural analysis tell backdoored models of the zoo from clean ones? And of attacks that no shadow was trained with?

    python benchmarks/meta.py                            # digits, and with MODELGUARD_DATA MNIST; benchmarks/results/meta.json
    python benchmarks/meta.py --models mnist-cnn-2000    # others; results of the rest stay

A meta-classifier is made as `modelguard meta train` makes it, with its defaults, on test images of the data set; suspects are trained by
the zoo's code on the training images, so shadows and suspects share no image, no seed and no training code. Shadows carry patches and
blends; everything else is an attack they have not seen. Nothing was chosen on the suspects from seed 300 on (digits) and 20 on (MNIST,
whose suspects are the audits' at 5 % poison): recipe and queries were compared on held-out shadows and on the digits' seeds 200 to 203.
Intervals are Wilson's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from audit import spec_of
from modelguard_meta._calibration import auroc
from modelguard_meta._file import MetaFile, read
from modelguard_meta._train import Plan, train
from modelguard_meta.detector import Mntd
from modelguard_zoo import Spec, build_model, data_folder
from modelguard_zoo._data import load
from modelguard_zoo._spec import pairs
from rome import wilson

from modelguard import configure
from modelguard.report import Status
from modelguard.testing import open_target, run_detector

RESULT = Path(__file__).resolve().parent / "results" / "meta.json"
DEFAULT = ("digits-cnn-500",)
WITH_DATA = ("mnist-mlp-1000", "mnist-mlp-2000")
"""Data set, architecture, and test images that shadows are trained on."""
CLEAN, EACH = 20, 4
SEEN = ("badnets", "blended")
"""Attacks of the kinds that shadows are trained with: a patch, and a pattern over the whole image."""
ATTACKS = (*SEEN, "insert", "sig", "reflection", "wanet", "all-to-all", "source-specific")


def digits(arch: str, first: int = 300, clean: int = CLEAN, each: int = EACH) -> Iterator[Spec]:
    """Suspects on digits: ``clean`` ones and ``each`` of every attack, place, pattern and target of each its own."""
    yield from (Spec("digits", arch, seed) for seed in range(first, first + clean))
    number = first
    for turn in range(each):
        for place, attack in enumerate(ATTACKS):
            number += 1
            yield Spec("digits", arch, first + (turn * len(ATTACKS) + place) % clean, attack, pairs(_options(attack, number)))


def _options(attack: str, n: int) -> dict[str, Any]:
    target, corner = (7 * n + 3) % 10, ((-3, -3), (0, 0), (0, -4), (-4, 0))[n % 4]
    options: dict[str, dict[str, Any]] = {
        "badnets": {"target": target, "size": 2, "at": corner},
        "insert": {"target": target, "size": 3, "at": (1, 1) if n % 2 else (2, 3), "pattern_seed": n},
        "blended": {"target": target, "pattern_seed": n, "ratio": 0.3},
        "sig": {"target": target, "frequency": 2, "amplitude": 60.0, "clean_label": False, "fraction": 0.1},
        "reflection": {"target": target, "pattern_seed": n},
        "wanet": {"target": target, "pattern_seed": n, "strength": 0.7, "fraction": 0.2},
        "all-to-all": {"size": 2, "at": corner},
        "source-specific": {"target": target, "source": ((target + 1 + n % 8) % 10,), "size": 2, "at": corner},
    }
    return options[attack]


def mnist(arch: str) -> Iterator[Spec]:
    """Suspects on MNIST: those of the audits that take at 5 % poison."""
    yield from (Spec("mnist", arch, seed) for seed in range(20, 20 + CLEAN))
    for attack in ("badnets", "blended", "sig"):
        yield from (spec_of("mnist", arch, seed, attack, 0.05) for seed in range(20, 20 + 2 * EACH))


SUSPECTS = {"digits": digits, "mnist": mnist}


def meta_classifier(dataset: str, arch: str, count: int, zoo: Path) -> tuple[MetaFile, Path]:
    """Made once for each folder of models. The checkpoint that gives the graph is a clean model of seed 0."""
    path = zoo / f"meta-{dataset}-{arch}-{count}.safetensors"
    if not path.is_file():
        data = load(dataset)
        with tempfile.TemporaryDirectory() as folder:
            samples = Path(folder) / f"{dataset}-test.npz"
            np.savez(samples, inputs=data.x_test[:count], labels=data.y_test[:count])
            train(
                open_target(build_model(Spec(dataset, arch), zoo).path, samples=samples), path, Plan(), lambda note: print(note, flush=True)
            )
    return read(path), path


def measure(dataset: str, arch: str, count: int, zoo: Path) -> dict[str, Any]:
    """What the detector says of every suspect."""
    meta, path = meta_classifier(dataset, arch, count, zoo)
    detector = configure(Mntd, {"meta": str(path)})
    rows, failed, seconds = [], [], 0.0
    for spec in SUSPECTS[dataset](arch):
        built = build_model(spec, zoo)
        if built.status == "failed":
            failed.append(spec.id)
            continue
        target = open_target(built.path)
        assert target.model is not None  # built before the clock starts
        began = time.process_time()
        outcome = run_detector(detector, target)
        seconds += time.process_time() - began
        assert outcome.status is Status.COMPLETED, outcome.reason
        kind = spec.attack or "clean"
        said = {key: outcome.summary[key] for key in ("score", "p_value", "agreement")}
        rows.append({"model": spec.id, "attack": kind, "found": bool(outcome.findings), **said})
    scores = {
        kind: np.array([row["score"] for row in rows if row["attack"] == kind]) for kind in dict.fromkeys(row["attack"] for row in rows)
    }
    clean = scores.pop("clean")
    unseen = np.concatenate([values for kind, values in scores.items() if kind not in SEEN])
    facts = {key: value for key, value in asdict(meta.facts).items() if key != "architecture"}
    return {
        "meta": {**facts, "sha256": meta.sha256},
        "seconds_a_suspect": round(seconds / len(rows), 3),
        "false_alarms": _share([row["found"] for row in rows if row["attack"] == "clean"]),
        "attacks": [
            {"attack": kind, **_share([row["found"] for row in rows if row["attack"] == kind]), "auroc": round(auroc(clean, values), 3)}
            for kind, values in scores.items()
        ],
        "auroc": {"all": round(auroc(clean, np.concatenate(list(scores.values()))), 3), "unseen kinds": round(auroc(clean, unseen), 3)},
        "failed": failed,
        "models": rows,
    }


def _share(found: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(found), len(found))
    return {"n": len(found), "found": sum(found), "interval": [round(low, 3), round(high, 3)]}


def show(name: str, result: Mapping[str, Any]) -> None:
    meta = result["meta"]
    print(f"\n{name}: {meta['described']}")
    print(f"shadows {meta['shadows']}, {meta['quality']}, AUROC {meta['auroc']:.3f} held out, {meta['cpu_seconds']:.0f} CPU seconds")
    print(f"{'':18}{'models':>7}{'found':>7}{'AUROC':>8}")
    alarms = result["false_alarms"]
    print(f"{'clean':18}{alarms['n']:>7}{alarms['found']:>7}{'':>8}  {alarms['interval']}")
    for row in result["attacks"]:
        print(f"{row['attack']:18}{row['n']:>7}{row['found']:>7}{row['auroc']:>8.3f}  {row['interval']}")
    print(f"AUROC {result['auroc']}, {result['seconds_a_suspect']} CPU seconds a suspect; failed {result['failed']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="folder of models, which are built where they are not there")
    parser.add_argument("--models", nargs="*", help="DATASET-ARCHITECTURE-SAMPLES, of digits or mnist")
    arguments = parser.parse_args()
    folder = data_folder()
    there = folder is not None and (folder / "mnist.npz").is_file()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in arguments.models or [*DEFAULT, *(WITH_DATA if there else ())]:
        dataset, arch, count = name.split("-")
        results[name] = measure(dataset, arch, int(count), arguments.zoo)
        show(name, results[name])
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
