"""Documentation is generated or tested, never merely written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_current() -> None:
    ran = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def test_the_readmes_plugin_is_a_whole_plugin() -> None:
    import re
    import types

    from modelguard.testing import check_detector

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "hookimpl" in block)
    module = types.ModuleType("modelguard_nan")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    assert module.modelguard_detectors() == [module.NotANumber]
    check_detector(module.NotANumber)
