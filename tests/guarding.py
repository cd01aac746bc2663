"""What the tests of guarded downloads, locks and provenance share: a small model, a hostile one, and a policy that is judged quickly."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
from safetensors.numpy import save


class Hostile:
    """Runs a command when it is unpickled, which nothing here does."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/never",)


def weights(seed: int = 0) -> bytes:
    return save({"encoder.weight": np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32)})


GOOD: dict[str, bytes] = {
    "model.safetensors": weights(),
    "config.json": b"{}\n",
    "README.md": b"# A model\n",
    "vocab/empty.txt": b"",
    "e.txt": b"",
}
BAD: dict[str, bytes] = {**GOOD, "extra.pkl": pickle.dumps(Hostile())}


def quick_policy(folder: Path, more: str = "") -> Path:
    """Baseline, judged by the core and the reader of executable content alone."""
    path = folder / "gate.yaml"
    path.write_text(f"version: 1\nname: gate\nextends: [builtin:baseline]\nplugins: {{allow: [modelguard-serialization]}}\n{more}")
    return path


def below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
