"""The import rules of docs/architecture.md section 2, held against the syntax trees of the whole project."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "modelguard"

LEVELS = {
    "_cli": 6, "__main__": 6,
    "api": 5,
    "_diff": 4, "_scanner": 4, "_plugins": 4, "_builtin": 4, "_sources": 4, "_formats": 4, "_runtime": 4, "_reporters": 4, "_detectors": 4,
    "hookspecs": 3, "policy": 3, "_policies": 3, "_schemas": 3,
    "detector": 2, "report": 2, "model": 2, "images": 2,
    "artifact": 1, "checkpoint": 1, "findings": 1, "onnx_graph": 1, "_options": 1,
    "errors": 0,
}  # fmt: skip
HEAVY = {"torch", "onnxruntime", "transformers", "timm", "torchvision"}
TORCH_ALLOWED = {"_runtime", "testing"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import in a file, except those only a type checker follows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def upward_imports(root: Path) -> list[str]:
    """Imports in the core package that point up or, in the core, at torch."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit = parts[0]
        if unit in ("testing", "__init__"):
            continue
        for module, line in imports(path):
            top = module.split(".")
            if top[0] in HEAVY and unit not in TORCH_ALLOWED:
                wrong.append(f"{unit}:{line} imports {module}")
            if top[0] != "modelguard" or len(top) < 2 or top[1] not in LEVELS:
                continue
            if LEVELS[top[1]] > LEVELS[unit]:
                wrong.append(f"{unit}:{line} (level {LEVELS[unit]}) imports {module} (level {LEVELS[top[1]]})")
    return wrong


def private_imports(folder: Path, package: str) -> list[str]:
    """Imports in a plugin that are not public names of modelguard."""
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] == "modelguard" and any(part.startswith("_") for part in parts[1:]):
                wrong.append(f"{package}/{path.name}:{line} imports {module}")
    return wrong


def test_every_unit_has_a_level() -> None:
    units = {path.stem for path in CORE.iterdir() if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")}
    assert units - {"testing"} <= set(LEVELS), "name the new unit in the table and in docs/architecture.md"


def test_core_imports_point_down_and_never_at_torch() -> None:
    assert upward_imports(CORE) == []


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("report.py", "from modelguard.policy import Policy"),
        ("checkpoint.py", "import modelguard._formats"),
        ("_scanner/x.py", "from modelguard import _cli"),
        ("_scanner/y.py", "def f():\n    import torch"),
        ("detector.py", "from onnxruntime import InferenceSession"),
    ],
)
def test_the_rule_catches_a_wrong_import(tmp_path: Path, unit: str, line: str) -> None:
    path = tmp_path / unit
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert len(upward_imports(tmp_path)) >= 1


@pytest.mark.parametrize("plugin", sorted((ROOT / "plugins").glob("modelguard-*")), ids=lambda path: path.name)
def test_plugins_import_public_names_only(plugin: Path) -> None:
    package = plugin / plugin.name.replace("-", "_")
    assert package.is_dir(), f"{plugin.name} has no package {package.name}"
    assert private_imports(package, package.name) == []


def _loaded(code: str) -> set[str]:
    script = textwrap.dedent(code) + "\nimport sys; print('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ran.stdout.splitlines()}


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded("from modelguard._cli import run; run(['--help'])")
    assert loaded & (HEAVY | {"onnx", "huggingface_hub", "numpy", "pydantic", "rich"}) == set()


def test_the_parent_of_a_scan_imports_neither_torch_nor_onnxruntime(tiny_model: Path) -> None:
    loaded = _loaded(f"from modelguard._cli import run; assert run(['scan', {str(tiny_model)!r}, '-q']) == 0")
    assert loaded & HEAVY == set()
