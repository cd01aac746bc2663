"""What a guarded download costs beside the client's own ``snapshot_download``: a gigabyte over loopback, detectors of files alone.

python benchmarks/fetch.py [--gigabytes N] [--rounds N]
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

import numpy as np
from safetensors.numpy import save_file

from modelguard.testing.hub import LoopbackHub

FIGURE = 1.3
"""Times the client's own download that a guarded one may take."""
POLICY = "version: 1\nname: static\nextends: [builtin:baseline]\nplugins: {allow: [modelguard-serialization]}\n"
RESULT = Path(__file__).resolve().parent / "results" / "fetch.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LoopbackHub() as hub:
        folder = Path(name)
        (folder / "static.yaml").write_text(POLICY)
        tensors = max(1, round(asked.gigabytes * (1 << 30) / (1 << 26)))
        rng = np.random.default_rng(0)
        weights = {f"layers.{number}.weight": rng.normal(size=(4096, 4096)).astype(np.float32) for number in range(tensors)}
        save_file(weights, folder / "model.safetensors")
        hub.commit("org/model", {"model.safetensors": folder / "model.safetensors", "config.json": b"{}"})
        rows = [_round(hub, folder / str(number)) for number in range(asked.rounds)]
    plain, guarded = (min(row[at] for row in rows) for at in (0, 1))
    document = {
        "gigabytes": asked.gigabytes,
        "rounds": [{"plain": round(first, 2), "guarded": round(second, 2)} for first, second in rows],
        "ratio": round(guarded / plain, 2),
        "figure": FIGURE,
    }
    for number, (first, second) in enumerate(rows):
        print(f"round {number}: plain {first:.2f} s, guarded {second:.2f} s, {second / first:.2f} times")
    print(f"best against best: {guarded / plain:.2f} times (figure: at most {FIGURE})")
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if guarded / plain <= FIGURE else 1


def _round(hub: LoopbackHub, place: Path) -> tuple[float, float]:
    """Seconds of a plain download into an empty cache, and of a guarded one into a folder."""
    plain = "from huggingface_hub import snapshot_download; snapshot_download('org/model')"
    guarded = ["-m", "modelguard", "fetch", "hf://org/model", str(place / "out"), "-q", "--policy", str(place.parent / "static.yaml")]
    seconds = []
    for name, arguments in (("plain", ["-c", plain]), ("guarded", guarded)):
        (place / name).mkdir(parents=True)
        env = {**os.environ, **hub.env(place / name)}
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], env=env, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1]


if __name__ == "__main__":
    sys.exit(main())
