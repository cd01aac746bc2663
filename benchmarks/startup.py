"""`modelguard --help` as users have it, installed from wheels, against a bare interpreter: the two interleaved, in one run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support import build_wheels, fresh_venv  # noqa: E402

ROUNDS = 40
FIGURE_MS = 60.0
"""How much longer than a bare interpreter it may take on an idle machine."""


def milliseconds(*argv: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, cwd=tempfile.gettempdir())
    return (time.perf_counter() - began) * 1e3


def main() -> int:
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wheels = build_wheels(Path(folder))
        for name, chosen in (("core", [wheels["modelguard-core"]]), ("all", list(wheels.values()))):
            python = fresh_venv(Path(folder) / name, chosen)
            bare, ours = [], []
            for _ in range(ROUNDS):
                bare.append(milliseconds(python, "-c", "pass"))
                ours.append(milliseconds(python.parent / "modelguard", "--help"))
            base, took = statistics.median(bare), statistics.median(ours)
            measured[name] = {"bare_ms": base, "help_ms": took, "over_ms": took - base, "ratio": took / base}
            print(
                f"{name:<5} python -c pass {base:6.1f} ms   modelguard --help {took:6.1f} ms   {took / base:.2f} x, {took - base:+.1f} ms"
            )
    print(f"figure: <= {FIGURE_MS:g} ms over bare")
    (HERE / "results" / "startup.json").write_text(json.dumps(measured, indent=2) + "\n")
    return 0 if all(item["over_ms"] <= FIGURE_MS for item in measured.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
