"""The README's tables say what the stored measurement says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "monitor.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are in the repository only")
def test_the_readme_shows_the_stored_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("monitor_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for what annotations mean
    spec.loader.exec_module(module)
    page = Path(module.README).read_text()
    assert module.with_tables(page, json.loads(Path(module.RESULTS).read_text())) == page
