"""Options that several commands share: each reaches what it is an option of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard._cli import run
from modelguard._scanner import child
from modelguard.testing import write_safetensors


@pytest.mark.parametrize("command", ["scan", "model", "diff"])
def test_threads_bound_the_worker(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"w": np.ones((8, 8), np.float32)})
    made: list[dict[str, str]] = []
    environment = child.worker_environment

    def note(*arguments: Any) -> dict[str, str]:
        made.append(environment(*arguments))
        return made[-1]

    monkeypatch.setattr(child, "worker_environment", note)
    run([command, str(path), *([str(path)] if command == "diff" else []), "--threads", "3", "-q"])
    assert made
    assert {environment["OMP_NUM_THREADS"] for environment in made} == {"3"}
