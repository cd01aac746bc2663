"""What scans of image classifiers of real sizes take: wall-clock time, CPU time and peak memory, each in a process of its own.

    MODELGUARD_DATA=FOLDER python benchmarks/scan.py [--models .bench/sizes] [WORK ...]

Every installed detector runs, on two threads. The models are those of benchmarks/sizes.py, built once and kept; what needs CIFAR-10 or
GTSRB is left out where MODELGUARD_DATA is not set. Prints a line for each figure and writes benchmarks/results/scan.json; works not named
keep their row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sizes import resnet18, resnet50, trained

RESULT = Path(__file__).resolve().parent / "results" / "scan.json"
HOME = Path(__file__).resolve().parents[1] / ".bench" / "sizes"
THREADS = 2


@dataclass(frozen=True)
class Work:
    """One scan: what builds the model, the seconds and GiB it may take, further options, and the classes that are to be accused."""

    build: Callable[[Path], Path]
    seconds: float
    options: tuple[str, ...] = ()
    gib: float = 4.0
    accused: tuple[int, ...] = ()


CLEAN = partial(trained, dataset="cifar10", arch="vgg-wide")
WORKS = {
    "resnet8": Work(partial(trained, dataset="cifar10", arch="resnet8"), 45),
    "vgg": Work(CLEAN, 180),
    "vgg backdoored": Work(partial(trained, dataset="cifar10", arch="vgg-wide", attack="badnets", target=3), 360, accused=(3,)),
    "vgg quick": Work(CLEAN, 40, ("--quick",)),
    "vgg 43 classes": Work(partial(trained, dataset="gtsrb", arch="vgg-wide"), 480),
    "resnet18": Work(resnet18, 1200),
    "resnet50 10m": Work(resnet50, 660, ("--budget", "10m")),
}
"""By name; the figures are for two idle cores."""


def measure(folder: Path, *options: str) -> dict[str, Any]:
    """One scan: seconds on the clock and of all cores, the largest resident set of a process it started, and what it said."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "report.json"
        command = [sys.executable, "-m", "modelguard", "scan", str(folder), "--samples", str(folder / "samples.npz"), "-q", "--no-cache"]
        command += ["--threads", str(THREADS), "-o", f"json={out}", *options]
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
            {f["evidence"]["target_class"] for o in report["outcomes"] for f in o["findings"] if "target_class" in f["evidence"]}
        ),
        "detectors": report["timings"]["detectors"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=HOME)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one of: {', '.join(WORKS)}")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.works) - WORKS.keys()):
        parser.error(f"there is no work {unknown[0]!r}; there are: {', '.join(WORKS)}")
    rows: dict[str, Any] = json.loads(RESULT.read_text())["works"] if RESULT.is_file() else {}
    reached = True
    print(f"{'work':16s} {'time':>8s} {'figure':>8s} {'CPU':>9s} {'peak':>9s}  verdict, accused")
    for name in arguments.works or WORKS:
        work = WORKS[name]
        if name != "resnet50 10m" and "MODELGUARD_DATA" not in os.environ:
            print(f"{name:16s} left out: MODELGUARD_DATA names no folder with its images")
            continue
        row = rows[name] = measure(work.build(arguments.models), *work.options)
        met = row["seconds"] <= work.seconds and row["peak_gib"] <= work.gib and row["accused"] == list(work.accused)
        reached &= met
        print(
            f"{name:16s} {row['seconds']:6.1f} s {work.seconds:6.0f} s {row['cpu_seconds']:7.1f} s {row['peak_gib']:5.2f} GiB  "
            f"{row['verdict']}, {row['accused'] or 'none'}{'' if met else '  MISSED'}",
            flush=True,
        )
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"threads": THREADS, "works": rows}, indent=1, sort_keys=True) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
