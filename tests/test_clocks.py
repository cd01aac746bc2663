"""No test asserts a time, or how much memory a process held: it would be a test of the machine. Such figures are in benchmarks/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLOCKS = {f"{name}{ending}" for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time") for ending in ("", "_ns")} | {
    "getrusage",
    "ru_maxrss",
    "ru_utime",
    "ru_stime",
    "times",
}
MODULES = {"time", "resource", "os"}


def clock_asserts(text: str) -> list[int]:
    """Lines of assertions over what came from a clock: read in the assertion, bound to a name before it, or returned by a function here.

    A loop that waits until a deadline asserts nothing, and is none of them.
    """
    tree = ast.parse(text)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
        if alias.name in CLOCKS
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    timing: set[str] = set(imported)
    while True:
        returning = {item.name for item in functions if any(_reads(value, timing, _bound(item, timing)) for value in _returned(item))}
        if returning <= timing:
            break
        timing |= returning
    found = set()
    for scope in (tree, *functions):
        names = _bound(scope, timing)
        found |= {node.lineno for node in _own(scope) if isinstance(node, ast.Assert) and _reads(node.test, timing, names)}
    return sorted(found)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of ``scope`` that are not in a function within it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from _own(child)


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    return [node.value for node in _own(function) if isinstance(node, ast.Return | ast.Yield) and node.value is not None]


def _bound(scope: ast.AST, timing: set[str]) -> set[str]:
    """Names that ``scope`` binds to something made of a clock's reading."""
    names: set[str] = set()
    while True:
        before = len(names)
        for node in _own(scope):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if _reads(node.value, timing, names):
                    names |= {item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)}
        if len(names) == before:
            return names


def _reads(expression: ast.expr, timing: set[str], names: set[str]) -> bool:
    for node in ast.walk(expression):
        if isinstance(node, ast.Name) and node.id in names:
            return True
        if (
            isinstance(node, ast.Attribute)
            and node.attr in CLOCKS
            and (node.attr.startswith("ru_") or (isinstance(node.value, ast.Name) and node.value.id in MODULES))
        ):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in timing:
            return True
    return False


@pytest.mark.parametrize("folder", [ROOT / "tests", *sorted((ROOT / "plugins").glob("*/tests"))], ids=lambda path: path.parent.name)
def test_no_test_asserts_on_a_clock(folder: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in sorted(folder.rglob("*.py")) for line in clock_asserts(path.read_text())]
    assert found == [], "count steps, reads or calls, give the code a clock of your own, or move the figure to benchmarks/"


@pytest.mark.parametrize(
    "planted",
    [
        "import time\ndef test():\n    began = time.monotonic()\n    work()\n    assert time.monotonic() - began < 20",
        "import time\ndef test():\n    began = time.process_time()\n    took = time.process_time() - began\n    assert 0 < took < 5",
        "from time import perf_counter as now\ndef test():\n    assert now() < 3",
        "import time\ndef took(work):\n    began = time.perf_counter()\n    work()\n    return time.perf_counter() - began\n"
        "def test():\n    seconds = took(print)\n    assert seconds < 1",
        "import resource\ndef test():\n    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 800_000",
        "import resource\ndef test():\n    peak = resource.getrusage(resource.RUSAGE_SELF)\n    assert peak.ru_maxrss < 800_000",
        "import time\nclass Test:\n    def test(self):\n        if (began := time.time_ns()) > 3:\n            assert began",
    ],
)
def test_the_rule_catches_an_assertion_on_a_clock(planted: str) -> None:
    assert len(clock_asserts(planted)) == 1


@pytest.mark.parametrize(
    "allowed",
    [
        "import time\ndef test():\n    end = time.monotonic() + 60\n    while time.monotonic() < end:\n        pass\n    assert done()",
        "def test(clock):\n    clock.now = 3.0\n    assert clock.monotonic() == 3.0",
        "import datetime\ndef test():\n    assert datetime.date.today() > EPOCH",
    ],
)  # fmt: skip
def test_the_rule_lets_waiting_and_injected_clocks_be(allowed: str) -> None:
    assert clock_asserts(allowed) == []
