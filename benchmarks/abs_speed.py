"""ABS, batched, against a loop over single neurons and single triggers with the same functions.

    python benchmarks/abs_speed.py ZOO_MODEL_FOLDER...     # prints a table, writes benchmarks/results/abs_speed.json

The loop holds one unit at one value at a time and runs the whole network for it, and searches one trigger after the other, as the
published code does. Same images, same candidates, same numbers of steps, one thread, CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from modelguard_abs._evidence import prepare
from modelguard_abs._inversion import attempts, invert
from modelguard_abs._stimulation import Candidate, candidate_layers, per_class, stimulate
from modelguard_abs._triggers import Patches
from modelguard_triggers.case import Case
from modelguard_triggers.facts import success_rate

from modelguard import ModelError, RunnableModel, ScanContext
from modelguard.testing.checkpoints import open_target

RESULT = Path(__file__).parent / "results" / "abs_speed.json"
AREA = 0.06
BATCH = 512


class Whole:
    """A model that cannot be cut: every stimulated value runs through all of it."""

    def __init__(self, inner: RunnableModel) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def split(self, layer: str) -> Any:
        raise ModelError(layer, "is not cut in this comparison")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def stimulated(case: Case) -> list[Any]:
    return list(stimulate(case, case.evidence.search, case.evidence.search_labels, candidate_layers(case.model)))


def searched(case: Case, groups: Sequence[Sequence[Candidate]], steps: int) -> list[float]:
    """Success on the images to check on, candidate by candidate; each group of candidates is one search."""
    found: list[float] = []
    for number, group in enumerate(groups):
        generator = torch.Generator().manual_seed(number)
        area = torch.full((len(group),), AREA)
        triggers = Patches(case.model.input, case.evidence.shape, area, generator, case.evidence.search.device)
        invert(case, triggers, group, steps, generator)
        found += success_rate(*attempts(case, triggers, torch.tensor([item.label for item in group]))).tolist()
    return found


def measure(folder: Path, steps: int) -> Mapping[str, Any]:
    target = open_target(folder, samples=folder / "samples.npz")
    model = target.model
    case = replace(prepare(target, ScanContext(detector="abs"), 1, 100), batch=BATCH)
    fast, batched = seconds(lambda: stimulated(case))
    slow, looped = seconds(lambda: stimulated(replace(case, model=cast(RunnableModel, Whole(model)), batch=1)))
    same = max(float((a.gaps - b.gaps).abs().nan_to_num(0, 0, 0).max()) for a, b in zip(batched, looped, strict=True) if a.units)
    candidates = per_class(batched, model.output.classes, 2)
    fast_search, together = seconds(lambda: searched(case, [candidates], steps))
    slow_search, alone = seconds(lambda: searched(case, [[item] for item in candidates], steps))
    return {
        "model": folder.name,
        "sets_of_units": sum(len(part.units) for part in batched),
        "candidates": len(candidates),
        "largest_difference_of_gaps": same,
        "mean_success": [sum(together) / len(together), sum(alone) / len(alone)],
        "stimulation_seconds": {"batched": fast, "loop": slow},
        "inversion_seconds": {"batched": fast_search, "loop": slow_search},
        "ratio": (slow + slow_search) / (fast + fast_search),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for folder in arguments.folders:
        row = measure(folder, arguments.steps)
        rows.append(row)
        stimulation, inversion = row["stimulation_seconds"], row["inversion_seconds"]
        print(
            f"{row['model']:44s} stimulation {stimulation['loop']:.1f} -> {stimulation['batched']:.1f} s, "
            f"inversion {inversion['loop']:.1f} -> {inversion['batched']:.1f} s, together {row['ratio']:.1f} x",
            flush=True,
        )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"threads": 1, "area": AREA, "rows": rows}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
