"""Neural Cleanse: all classes in one batch against the authors' schedule, class by class.

    python benchmarks/nc_speed.py --zoo zoo MODEL [MODEL ...]

Both run the same code on the same model, images and machine, one thread; the baseline differs in its schedule only (at most 1000
steps of 31 mini-batches of 32 a class, early stop as published). CPU seconds are compared, because they do not depend on what
else the machine does. Writes benchmarks/results/nc_speed.json, one entry a model; what is there is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "nc_speed.json"


def measure(folder: Path, schedule: str, quick: bool = False) -> dict[str, Any]:
    """One scan: CPU seconds, and what it found."""
    import torch
    from modelguard_neural_cleanse.detectors import NeuralCleanse

    from modelguard import configure
    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    torch.set_num_threads(1)
    target = open_target(folder, samples=folder / "samples.npz")
    target.model  # noqa: B018 - loading is not what is measured
    began, cpu = time.perf_counter(), time.process_time()
    outcome = run_detector(configure(NeuralCleanse, {"schedule": schedule, "quick": quick}), target)
    return {
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "score": outcome.summary["score"],
        "accused": [item.evidence["target_class"] for item in outcome.findings],
        "sizes": [row["size"] for row in outcome.summary["classes"]],
        "published_index": max(row["anomaly_index"] for row in outcome.summary["classes"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in arguments.models:
        if name in results:
            continue
        folder = arguments.zoo / name
        record = json.loads((folder / "record.json").read_text())
        entry = {
            "classes": record["data"]["classes"],
            "status": record["status"],
            "targets": sorted(set((record["attack"] or {}).get("targets", {}).values())),
            "batched": measure(folder, "batched"),
            "quick": measure(folder, "batched", quick=True),
            "paper": measure(folder, "paper"),
        }
        entry["speedup"] = round(entry["paper"]["cpu_seconds"] / entry["batched"]["cpu_seconds"], 1)
        results[name] = entry
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(f"{'model':44s} {'K':>3s} {'paper':>9s} {'batched':>9s} {'quick':>9s} {'speed-up':>8s}  target: paper, batched, quick")
    for name, entry in sorted(results.items(), key=lambda item: (item[1]["classes"], item[0])):
        seconds = " ".join(f"{entry[kind]['cpu_seconds']:7.1f} s" for kind in ("paper", "batched", "quick"))
        found = ", ".join(str(entry[kind]["accused"]) for kind in ("paper", "batched", "quick"))
        print(f"{name:44s} {entry['classes']:3d} {seconds} {entry['speedup']:7.1f}x  {entry['targets']}: {found}")
    for classes in sorted({entry["classes"] for entry in results.values()}):
        members = [entry for entry in results.values() if entry["classes"] == classes]
        areas = ", ".join(f"{kind} {auroc(members, kind):.3f}" for kind in ("paper", "batched", "quick"))
        middle = median(entry["speedup"] for entry in members)
        print(f"{classes} classes: median speed-up {middle:.1f}x over {len(members)} models; AUROC {areas}")


def auroc(entries: list[dict[str, Any]], kind: str) -> float:
    """How often a backdoored model's score is above a clean one's, ties counting half (Mann and Whitney 1947)."""
    bad = [entry[kind]["score"] for entry in entries if entry["status"] == "backdoored"]
    good = [entry[kind]["score"] for entry in entries if entry["status"] == "clean"]
    wins = [1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good]
    return sum(wins) / len(wins) if wins else float("nan")


if __name__ == "__main__":
    main()
