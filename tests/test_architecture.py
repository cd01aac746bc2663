"""The import rules of docs/architecture.md section 2, held against the syntax trees of the whole project."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "modelguard"

PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))

LEVELS = {
    "_cli": 6, "__main__": 6,
    "api": 5, "hub": 5, "testing": 5,
    "_guard": 4, "_fleet": 4, "_lock": 4, "_provenance": 4,
    "_diff": 4, "_scanner": 4, "_plugins": 4, "_builtin": 4, "_sources": 4, "_formats": 4, "_reporters": 4, "_detectors": 4,
    "hookspecs": 3, "policy": 3, "_policies": 3, "_schemas": 3, "_inputs": 3, "_cache": 3,
    "detector": 2, "report": 2, "model": 2, "images": 2,
    "artifact": 1, "checkpoint": 1, "display": 1, "findings": 1, "onnx_graph": 1, "_options": 1, "_temporary": 1, "_limits": 1,
    "errors": 0,
}  # fmt: skip
HEAVY = {"torch", "onnxruntime", "transformers", "timm", "torchvision"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module or name in one, line) of every import in a file, in functions too, except those only a type checker follows."""
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


def wrong_in_the_core(root: Path) -> list[str]:
    """Imports in the core package that point up, at a plugin, or at torch."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        unit = path.relative_to(root).with_suffix("").parts[0]
        for module, line in imports(path):
            top = module.split(".")
            if top[0] in HEAVY or top[0].startswith("modelguard_"):
                wrong.append(f"{unit}:{line} imports {module}")
            if unit == "__init__" or top[0] != "modelguard" or len(top) < 2 or top[1] not in LEVELS:
                continue
            if LEVELS[top[1]] > LEVELS[unit]:
                wrong.append(f"{unit}:{line} (level {LEVELS[unit]}) imports {module} (level {LEVELS[top[1]]})")
    return wrong


def wrong_in_a_plugin(package: Path, declared: Collection[str]) -> list[str]:
    """Imports in a plugin's package that are not public names of another distribution, or of one that it does not depend on.

    ``declared`` are the distributions its pyproject.toml names.
    """
    wrong = []
    for path in sorted(package.rglob("*.py")):
        for module, line in imports(path):
            first, *rest = module.split(".")
            if first == package.name or not re.fullmatch(r"modelguard(_\w+)?", first):
                continue
            if any(part.startswith("_") for part in rest):
                wrong.append(f"{package.name}/{path.name}:{line} imports {module}, which is private")
            if first.replace("_", "-") not in declared:
                wrong.append(f"{package.name}/{path.name}:{line} imports {module}, and its pyproject.toml does not depend on it")
    return wrong


def requirements(plugin: Path) -> set[str]:
    """The distributions a plugin depends on, extras but those of its tests included. The core is called modelguard here, whatever its
    distribution is called."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [item for name, items in project.get("optional-dependencies", {}).items() for item in items if name != "test"]
    names = {re.split(r"[^\w.-]", item)[0] for item in [*project["dependencies"], *extras]}
    core = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    return {"modelguard" if name == core else name for name in names}


def circles(package: Path) -> list[list[str]]:
    """Modules of a package that import each other at run time, in functions or not: each list is one knot of them."""
    names = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found = [module for module, _ in imports(path)]
        # `from a import b` is an import of a.b where that is a module, and of a where it is not.
        submodules = {module for module in found if module in names}
        parents = {module.rpartition(".")[0] for module in submodules}
        graph[name] = {module for module in submodules if module not in parents or _names_of(path, module) - names.keys()} - {name}
    return _knots(graph)


def _names_of(path: Path, module: str) -> set[str]:
    """What a file imports out of ``module``, dotted; the module itself where it is imported whole."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {
        f"{module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }
    whole = any(isinstance(node, ast.Import) and any(alias.name == module for alias in node.names) for node in ast.walk(tree))
    return taken | ({f"{module}."} if whole else set())


def _knots(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            knot = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(knot) > 1:
                found.append(sorted(knot))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def package_of(plugin: Path) -> Path:
    return plugin / plugin.name.replace("-", "_")


def plant(folder: Path, files: Mapping[str, str]) -> Path:
    """A package ``pkg`` of these files, by path without ``.py``."""
    package = folder / "pkg"
    for name, text in {"__init__": "", **files}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_every_unit_has_a_level() -> None:
    units = {path.stem for path in CORE.iterdir() if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")}
    assert units <= set(LEVELS), "name the new unit in the table and in docs/architecture.md"


def test_core_imports_point_down_and_never_at_torch() -> None:
    assert wrong_in_the_core(CORE) == []


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("report.py", "from modelguard.policy import Policy"),
        ("checkpoint.py", "import modelguard._formats"),
        ("_scanner/x.py", "from modelguard import _cli"),
        ("_scanner/y.py", "def f():\n    import torch"),
        ("_scanner/z.py", "def f():\n    from modelguard_runtime import TorchModel"),
        ("detector.py", "from onnxruntime import InferenceSession"),
        ("testing/x.py", "def f():\n    import torch"),
        ("__init__.py", "import torch"),
    ],
)
def test_the_rule_catches_a_wrong_import(tmp_path: Path, unit: str, line: str) -> None:
    path = tmp_path / unit
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert len(wrong_in_the_core(tmp_path)) >= 1


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_import_public_names_of_what_they_depend_on(plugin: Path) -> None:
    package = package_of(plugin)
    assert package.is_dir(), f"{plugin.name} has no package {package.name}"
    assert wrong_in_a_plugin(package, requirements(plugin)) == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("from modelguard import Finding", 0),
        ("from modelguard_other import Tool", 0),
        ("from modelguard_other.testing import tool", 0),
        ("from pkg._mine import x", 0),
        ("def f():\n    from modelguard._formats import open_artifact", 1),
        ("from modelguard import _formats", 1),
        ("from modelguard_other._tool import Tool", 1),
        ("from modelguard_other import _tool", 1),
        ("import modelguard_undeclared", 1),
    ],
)
def test_the_rule_catches_a_private_or_undeclared_import(tmp_path: Path, line: str, caught: int) -> None:
    package = plant(tmp_path, {"module": line})
    assert bool(wrong_in_a_plugin(package, {"modelguard", "modelguard-other"})) == bool(caught)


@pytest.mark.parametrize("package", [CORE, *map(package_of, PLUGINS)], ids=lambda path: path.name)
def test_no_modules_import_each_other(package: Path) -> None:
    assert circles(package) == []


@pytest.mark.parametrize(
    ("files", "knots"),
    [
        ({"a": "from pkg.b import x", "b": "y = 1"}, []),
        ({"a": "from pkg.b import x", "b": "def f():\n    from pkg.a import y"}, [["pkg.a", "pkg.b"]]),
        ({"a": "from pkg import b", "b": "import pkg.c", "c": "from pkg import a"}, [["pkg.a", "pkg.b", "pkg.c"]]),
        ({"sub/__init__": "from pkg.sub.a import x", "sub/a": "def f():\n    from pkg.sub import y"}, [["pkg.sub", "pkg.sub.a"]]),
        ({"a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.b import x", "b": "from pkg.a import y"}, []),
    ],
)
def test_the_rule_catches_a_circle(tmp_path: Path, files: dict[str, str], knots: list[list[str]]) -> None:
    assert circles(plant(tmp_path, files)) == knots


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


def strangers(tests: Path, core: Path) -> list[str]:
    """What is in ``tests`` and mirrors nothing of the core: a folder ``x`` is about ``_x`` or ``x``, and so is a file ``test_x.py``."""
    units = {path.stem.lstrip("_") for path in core.iterdir() if path.suffix == ".py" or path.is_dir()}
    there = [path for path in tests.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")]
    return sorted(path.name for path in there if path.stem.removeprefix("test_") not in units)


def test_unit_tests_mirror_the_core() -> None:
    assert strangers(ROOT / "tests" / "unit", CORE) == []


def test_the_mirror_shows_a_test_of_nothing(tmp_path: Path) -> None:
    for folder in ("core/_scanner", "tests/scanner", "tests/formats"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("core/report.py", "tests/test_report.py", "tests/test_reports.py"):
        (tmp_path / file).touch()
    assert strangers(tmp_path / "tests", tmp_path / "core") == ["formats", "test_reports.py"]
