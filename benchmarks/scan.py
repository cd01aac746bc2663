"""The default scan of an image classifier, and with --quick: wall-clock time and peak memory, in a process of its own.

    python benchmarks/scan.py [--zoo zoo] [MODEL ...]

Every installed detector runs, on two threads and with ``--memory 2G``. A model of the standard zoo that is not built yet is built first.
Writes benchmarks/results/scan.json; models not named keep their row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "scan.json"
MODELS = ("cifar10-resnet8-clean-0-6cfa0f", "signs-resnet8-badnets-1-9d7464")
THREADS = 2
LIMITS = {"default": 300.0, "quick": 30.0}
"""Seconds the two may take on two cores."""
MEMORY = 2.0
"""GiB either may take."""


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    """One scan: seconds on the clock and of all cores, the largest resident set of a process it started, and what it said."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "report.json"
        command = [sys.executable, "-m", "modelguard", "scan", str(folder), "--samples", str(folder / "samples.npz"), "-q"]
        command += ["--threads", str(THREADS), "--memory", f"{MEMORY:g}G", "-o", f"json={out}", *arguments]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        report = json.loads(out.read_text(encoding="utf-8"))
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / (1 << 20), 2),  # Linux counts KiB
        "verdict": report["decision"]["verdict"],
        "did_not_complete": {item["detector"]: item["status"] for item in report["outcomes"] if item["status"] in ("errored", "timed-out")},
        "accused": sorted(
            {f["evidence"].get("target_class", -1) for o in report["outcomes"] for f in o["findings"] if f["rule"] == "MG3035"}
        ),
        "detectors": report["timings"]["detectors"],
    }


def built(zoo: Path, name: str) -> Path:
    """The folder of a model of the standard zoo."""
    from modelguard_zoo import build_model, standard_zoo

    if not (zoo / name / "record.json").is_file():
        build_model(next(spec for spec in standard_zoo() if spec.id == name), zoo)
    return zoo / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text())["models"] if RESULT.is_file() else {}
    print(f"{'model':36s} {'mode':8s} {'time':>8s} {'of':>6s} {'CPU':>8s} {'peak':>10s}  verdict, accused")
    for name in arguments.models:
        folder = built(arguments.zoo, name)
        rows[name] = {}
        for mode, extra in (("default", ()), ("quick", ("--quick",))):
            row = rows[name][mode] = measure(folder, *extra)
            print(
                f"{name:36s} {mode:8s} {row['seconds']:6.1f} s {LIMITS[mode]:4.0f} s {row['cpu_seconds']:6.1f} s "
                f"{row['peak_gib']:6.2f} GiB  {row['verdict']}, {row['accused']}",
                flush=True,
            )
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps({"threads": THREADS, "memory_gib": MEMORY, "models": rows}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
