"""CPU time of the default scan, and of ``diff X X``, of a model shaped like all-mpnet-base-v2: 438 MB of float32, 199 tensors.

    python benchmarks/weights.py [--rounds N]

The weights are made here: normal with a scale for each column, one in a hundred three times as large, a leading direction in each matrix,
and a third of the vocabulary's rows still the float16 numbers they were stored as. Whole processes, the least of some rounds, beside what
one read of the same bytes by numpy costs. Writes benchmarks/results/weights.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard.testing import write_safetensors

RESULT = Path(__file__).resolve().parent / "results" / "weights.json"
VOCABULARY, WIDTH, INNER, LAYERS = 30527, 768, 3072, 12
FIGURES = {"scan": 6.0, "diff X X": 1.0}
"""CPU seconds each may take."""


def tensors(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The model, by tensor name."""
    rng = np.random.default_rng(seed)
    made: dict[str, npt.NDArray[np.float32]] = {}

    def matrix(rows: int, columns: int, scale: float = 0.035) -> npt.NDArray[np.float32]:
        values = rng.standard_normal((rows, columns), np.float32) * np.exp(0.25 * rng.standard_normal(columns)).astype(np.float32)
        values[rng.random((rows, columns), np.float32) < 0.01] *= 3
        return values * np.float32(scale)

    def linear(name: str, rows: int, columns: int) -> None:
        leading = 0.01 * rng.standard_normal((rows, 1)) * rng.standard_normal((1, columns))
        made[f"{name}.weight"] = matrix(rows, columns) + leading.astype(np.float32)
        made[f"{name}.bias"] = (0.05 * rng.standard_normal(rows)).astype(np.float32)

    def norm(name: str) -> None:
        made[f"{name}.weight"] = (1 + 0.08 * rng.standard_normal(WIDTH)).astype(np.float32)
        made[f"{name}.bias"] = (0.05 * rng.standard_normal(WIDTH)).astype(np.float32)

    words = matrix(VOCABULARY, WIDTH)
    untouched = rng.random(VOCABULARY) < 0.35
    words[untouched] = words[untouched].astype(np.float16)
    words[1] = 0  # padding
    made["embeddings.word_embeddings.weight"] = words
    made["embeddings.position_embeddings.weight"] = matrix(514, WIDTH)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        place = f"encoder.layer.{layer}"
        for part in "qkvo":
            linear(f"{place}.attention.attn.{part}", WIDTH, WIDTH)
        norm(f"{place}.attention.LayerNorm")
        linear(f"{place}.intermediate.dense", INNER, WIDTH)
        linear(f"{place}.output.dense", WIDTH, INNER)
        norm(f"{place}.output.LayerNorm")
    made["encoder.relative_attention_bias.weight"] = matrix(32, 12, 1.0)
    linear("pooler.dense", WIDTH, WIDTH)
    return made


def least(rounds: int, work: Callable[[], object], whose: int = RUSAGE_CHILDREN) -> float:
    """CPU seconds, user and system, of the cheapest of ``rounds``: of processes that ``work`` starts and waits for."""
    taken = []
    for _ in range(rounds):
        before = getrusage(whose)
        work()
        after = getrusage(whose)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def modelguard(*arguments: str) -> dict[str, Any]:
    """Run the command line; what its report says."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "modelguard", *arguments, "-q", "--no-cache", "-o", f"json={out}"]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def one_pass(path: Path) -> float:
    """CPU seconds of adding the file's bytes up, eight at a time: what no detector can do without."""
    began = time.process_time()
    data = np.memmap(path, np.uint64, "r", shape=(path.stat().st_size // 8,))
    data.sum()
    return time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_safetensors(path, tensors())
        rows["one pass"] = {"cpu_seconds": round(min(one_pass(path) for _ in range(rounds)), 3)}
        report = modelguard("scan", folder)
        rows["scan"] = {
            "cpu_seconds": round(least(rounds, lambda: modelguard("scan", folder)), 2),
            "wall_seconds": report["timings"]["detectors"],
        }
        copy = Path(folder) / "copy.safetensors"
        shutil.copyfile(path, copy)
        same = least(rounds, lambda: modelguard("diff", str(path), str(copy)))
        rows["diff X X"] = {"cpu_seconds": round(same, 2)}
    for name, row in rows.items():
        figure = f"   (figure: <= {FIGURES[name]:g} s)" if name in FIGURES else ""
        print(f"{name:10s} {row['cpu_seconds']:7.2f} s CPU{figure}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    return 0 if all(rows[name]["cpu_seconds"] <= figure for name, figure in FIGURES.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
