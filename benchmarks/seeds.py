"""Does a verdict depend on the seed of the search? Ten models of the zoo, five seeds each.

    python benchmarks/seeds.py [--zoo zoo]

A model's verdict is the set of classes that a detector accuses with medium confidence or more. Every model and seed on which a detector
says something else than with seed 0 is reported. Models that are not built yet are built first. Writes benchmarks/results/seeds.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "seeds.json"
SEEDS = range(5)
MODELS = (
    "digits-cnn-badnets-3-05aed7",
    "digits-cnn-checkerboard-0-88ac21",
    "digits-cnn-clean-0-53b6c9",
    "digits-cnn-clean-1-b44772",
    "digits-mlp-checkerboard-0-d23a4b",
    "digits-mlp-clean-0-34f842",
    "digits-mlp-clean-1-d0e086",
    "digits-mlp-clean-2-7206e0",
    "digits-mlp-insert-1-e912e3",
    "digits-mlp-pixel-1-e5619d",
)
DETECTORS = {"abs": {}, "backdoor-ensemble": {"specialists": False}, "mm-bd": {}, "neural-cleanse": {}, "neural-cleanse-blend": {}}


def accused(folder: Path, seed: int) -> dict[str, list[int]]:
    """The classes each detector accuses."""
    from modelguard import Confidence, configure
    from modelguard._plugins import load
    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    target = open_target(folder, samples=folder / "samples.npz")
    known = load().detectors
    said = {}
    for name, options in DETECTORS.items():
        outcome = run_detector(configure(known[name], options), target, seed=seed)
        said[name] = sorted({f.evidence["target_class"] for f in outcome.findings if f.confidence >= Confidence.MEDIUM})
    return said


def main() -> None:
    import torch
    from modelguard_zoo import build_model, read_record, standard_zoo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    for name in MODELS:
        folder = arguments.zoo / name
        if not (folder / "record.json").is_file():
            build_model(next(spec for spec in standard_zoo() if spec.id == name), arguments.zoo)
        record = read_record(folder).record
        verdicts = [accused(folder, seed) for seed in SEEDS]
        models[name] = {
            "status": record["status"],
            "targets": sorted(set((record["attack"] or {}).get("targets", {}).values())),
            "accused": {detector: [verdict[detector] for verdict in verdicts] for detector in DETECTORS},
        }
        print(name, models[name]["targets"], *(f"{detector} {said}" for detector, said in models[name]["accused"].items()), flush=True)
    disagreements = {
        detector: sorted(
            f"{name}, seed {seed}: {said[seed]} and not {said[0]}"
            for name, row in models.items()
            for said in [row["accused"][detector]]
            for seed in SEEDS
            if said[seed] != said[0]
        )
        for detector in DETECTORS
    }
    compared = len(MODELS) * (len(SEEDS) - 1)
    for detector, found in disagreements.items():
        print(f"{detector}: {len(found)} of {compared} verdicts differ from seed 0" + "".join(f"\n  {line}" for line in found))
    RESULT.parent.mkdir(exist_ok=True)
    document = {"seeds": list(SEEDS), "models": models, "disagreements": disagreements}
    RESULT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
