"""Fixtures every test may use."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ran, build_wheels

# A shell that starts the tests in the background has its children ignore these, and theirs would too; tests of signals need the default.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, _handler)

# Tests of scans see scans, and leave nothing in the home of whoever runs them; those of the cache name a folder.
os.environ["MODELGUARD_CACHE"] = "off"


@pytest.fixture
def mg(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in this process (its workers are processes of their own)."""
    from modelguard._cli import run

    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv: object) -> Ran:
        capfd.readouterr()
        code = run([str(item) for item in argv])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans have no worker process: for tests of what a scan says that would import the same libraries in one process after another."""
    from in_process import InProcessWorker

    monkeypatch.setattr("modelguard._scanner.run.Child", InProcessWorker)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small safetensors checkpoint."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    folder.mkdir()
    rng = np.random.default_rng(0)
    save_file(
        {f"layers.{i}.weight": rng.normal(size=(16, 16)).astype(np.float32) for i in range(3)},
        folder / "model.safetensors",
    )
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of every distribution by name; all test processes of a run share them."""
    pytest.importorskip("setuptools")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheels"
    folder.mkdir(exist_ok=True)
    return build_wheels(folder)
