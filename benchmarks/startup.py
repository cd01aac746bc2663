"""`modelguard --help` against a bare interpreter: a ratio, taken in one run with the two interleaved."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
FIGURE = 5.0


def seconds(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(seconds("-c", "pass"))
        ours.append(seconds("-m", "modelguard", "--help"))
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"python -c pass     {statistics.median(bare) * 1e3:6.1f} ms")
    print(f"modelguard --help  {statistics.median(ours) * 1e3:6.1f} ms   {ratio:.2f} x   (figure: <= {FIGURE:g} x)")
    out = Path(__file__).parent / "results" / "startup.json"
    out.parent.mkdir(exist_ok=True)
    measured = {"bare_ms": statistics.median(bare) * 1e3, "help_ms": statistics.median(ours) * 1e3, "ratio": ratio}
    out.write_text(json.dumps(measured, indent=2) + "\n")
    return 0 if ratio <= FIGURE else 1


if __name__ == "__main__":
    sys.exit(main())
