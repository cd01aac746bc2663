"""What a second scan costs: of unchanged models, and of as many with a byte changed in one.

Every model is scanned through the command's own path, in one process. The figures, and the recorded results, are for an idle machine.
``python benchmarks/cache.py [MODELS]``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from modelguard._cache.store import Store
from modelguard._scanner.prepare import RunOptions, ScanArguments, prepare
from modelguard._scanner.run import Silent
from modelguard.report import Report

RESULT = Path(__file__).resolve().parent / "results" / "cache.json"
SIDE = 512
FIGURE = 0.05


def models(folder: Path, number: int) -> list[Path]:
    """Checkpoints of four square layers, about 4 MB each."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        place = folder / f"model-{index:04}"
        place.mkdir()
        tensors = {f"layers.{layer}.weight": rng.normal(size=(SIDE, SIDE)).astype(np.float32) for layer in range(4)}
        save_file(tensors, place / "model.safetensors")
        made.append(place)
    return made


def scans(places: list[Path], *, cache: bool) -> tuple[float, list[Report]]:
    prepared = prepare(ScanArguments(target=places[0], run=RunOptions(cache=cache, threads=1)))
    began = time.perf_counter()
    reports = [replace(prepared, request=replace(prepared.request, target=str(place))).scan(Silent()) for place in places]
    return time.perf_counter() - began, reports


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MODELGUARD_CACHE"] = os.path.join(folder, "cache")
        made = models(Path(folder), number)
        rows: dict[str, float] = {"without a cache": scans(made, cache=False)[0]}
        rows["first"], first = scans(made, cache=True)
        rows["second"], second = scans(made, cache=True)
        assert [replace(item, timings={}) for item in second] == [replace(item, timings={}) for item in first]
        file = made[0] / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        rows["a byte changed in one"], third = scans(made, cache=True)
        asked = [item.target.uri for item in third if not item.timings.get("cached")]
        with Store(Path(os.environ["MODELGUARD_CACHE"])) as store:
            stats = store.stats()
    share = rows["second"] / rows["first"]
    document: dict[str, Any] = {
        "models": number,
        "seconds": rows,
        "second_share": share,
        "asked_after_one_change": len(asked),
        "bytes_per_model": stats.on_disk / number,
    }
    for name, seconds in rows.items():
        print(f"{name:<24} {seconds:8.2f} s  {1e3 * seconds / number:8.1f} ms a model")
    print(f"second run: {share:.1%} of the first (figure: <= {FIGURE:.0%})")
    print(f"after one change: {len(asked)} of {number} models asked again (figure: 1)")
    print(f"on disk: {stats.on_disk / number / 1e3:.1f} KB a model")
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if share <= FIGURE and len(asked) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
