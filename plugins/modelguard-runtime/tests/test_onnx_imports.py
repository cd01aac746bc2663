"""The ONNX importer knows nothing of modelguard, and no two of its modules import each other, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import modelguard_runtime
import pytest

OWN = "modelguard_runtime.onnx"
PACKAGE = Path(modelguard_runtime.__file__).parent / "onnx"


def modules(folder: Path) -> dict[str, Path]:
    """The files of the package in ``folder``, by dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join([OWN, *(part for part in parts if part != "__init__")])] = path
    return found


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Every (module, name in it) the file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def foreign(folder: Path) -> list[str]:
    """Imports of modelguard, or of the runtime outside the package."""
    return [
        f"{module} imports {source}"
        for module, path in modules(folder).items()
        for source, _ in imported(path)
        if source.split(".")[0] in ("modelguard", "modelguard_runtime") and not f"{source}.".startswith(f"{OWN}.")
    ]


def circle(folder: Path) -> list[str]:
    """Modules that import each other in a circle; empty when there is none."""
    known = modules(folder)
    graph: Mapping[str, set[str]] = {
        # What is imported out of a package may be one of its modules, or something its __init__ defines.
        module: {name for source, part in imported(path) if (name := whole if (whole := f"{source}.{part}") in known else source) in known}
        for module, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_importer_knows_nothing_of_modelguard() -> None:
    assert foreign(PACKAGE) == []


def test_no_two_modules_of_the_importer_import_each_other() -> None:
    assert circle(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "from modelguard.errors import ModelError",
        "import modelguard",
        "from modelguard_runtime import torch_model",
        "from modelguard_runtime._weights import fit",
        "def f():\n    from modelguard.detector import Skip",
        "import modelguard_runtime.onnx_model",
    ],
)
def test_a_foreign_import_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "importer.py").write_text(line)
    assert foreign(tmp_path)


@pytest.mark.parametrize("late", ["", "def f():\n    "])
def test_a_circle_is_found(tmp_path: Path, late: str) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "builder.py").write_text(f"from {OWN}.lower import control")
    (tmp_path / "lower" / "control.py").write_text(f"{late}from {OWN}.builder import Builder")
    assert set(circle(tmp_path)) == {f"{OWN}.builder", f"{OWN}.lower.control"}


def test_a_module_that_imports_its_own_package_back_is_found(tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "__init__.py").write_text(f"from {OWN}.ops import conv\nTABLE = conv")
    (tmp_path / "ops" / "conv.py").write_text(f"from {OWN}.ops import TABLE")
    assert circle(tmp_path)
