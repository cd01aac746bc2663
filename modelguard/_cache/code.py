"""Which code gave an outcome: distributions with their versions, and what tells two builds of one version apart."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import modelguard
from modelguard.report import CORE

_FOR_DEVELOPERS = frozenset({"test", "tests", "dev", "lint", "docs", "browser"})


@cache
def machine() -> tuple[str, ...]:
    """Python and the kind of processor: what computes."""
    return (f"python {platform.python_version()}", sys.platform, platform.machine())


@cache
def code(names: frozenset[str]) -> tuple[str, ...]:
    """What stands for the code of distributions: a line for each of them, of ours that they need, and of the libraries of all these.

    A library counts with its version, absent ones as such, because what a detector can do depends on what is installed.
    """
    seen: dict[str, str] = {}
    todo = sorted(names)
    while todo:
        name = _canonical(todo.pop())
        if name in seen:
            continue
        ours = name in names or name == CORE or name.startswith("modelguard-")
        try:
            found = distribution(name)
        except PackageNotFoundError:
            seen[name] = _unpacked(name) if ours else "absent"
            continue
        seen[name] = f"{_version(found)} {_build(name, found)}" if ours else _version(found)
        if ours:
            todo += _requires(found)
    return tuple(f"{name} {said}" for name, said in sorted(seen.items()))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _head(found: Distribution) -> str:
    """``dist.version`` and ``dist.requires`` parse all of the metadata as an e-mail message, which takes longer than planning a scan."""
    return (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").split("\n\n", 1)[0]


def _version(found: Distribution) -> str:
    match = re.search(r"^Version: (.*)$", _head(found), re.MULTILINE)
    return match[1].strip() if match else "unknown"


def _requires(found: Distribution) -> list[str]:
    """What it needs, and the libraries that make it able to do more; not plugins that it only names, nor what its own tests need."""
    names = []
    for name, rest in re.findall(r"^Requires-Dist: ([A-Za-z0-9._-]+)(.*)$", _head(found), re.MULTILINE):
        extra = re.search(r"extra == .(\w+)", rest)
        if extra is None or not (extra[1] in _FOR_DEVELOPERS or _canonical(name).startswith("modelguard-")):
            names.append(name)
    return names


def _build(name: str, found: Distribution) -> str:
    """The digests of an installed wheel's files. What runs from a working tree is told by the sizes and times of its files."""
    record = found.read_text("RECORD") or ""
    modules = [line for line in record.splitlines() if ",sha256=" in line and ".dist-info/" not in line]
    if any(line.split(",", 1)[0].endswith("/__init__.py") for line in modules):
        return hashlib.sha256("\n".join(sorted(modules)).encode()).hexdigest()
    top = (found.read_text("top_level.txt") or "").split() or [name.replace("-", "_")]
    return _tree(top)


def _unpacked(name: str) -> str:
    return _tree(["modelguard" if name == CORE else name.replace("-", "_")])


def _tree(packages: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for package in packages:
        for place in _places(package):
            for folder, names, files in os.walk(place):
                names[:] = sorted(item for item in names if item != "__pycache__")
                for file in sorted(files):
                    info = os.stat(os.path.join(folder, file))
                    digest.update(f"{os.path.relpath(folder, place)}/{file} {info.st_size} {info.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _places(package: str) -> list[str]:
    if package == modelguard.__name__:
        return [str(Path(modelguard.__file__).parent)]
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    return list(spec.submodule_search_locations or ()) if spec is not None else []
