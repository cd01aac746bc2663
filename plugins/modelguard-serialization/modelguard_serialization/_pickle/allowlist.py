"""The names ordinary pickles hold, each with how it may be used. They are data: see ``names/``."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Literal, cast

Kind = Literal["call", "class", "enum", "name"]
"""See the head of ``names/common.txt``."""


@lru_cache(maxsize=64)
def _names(package: str) -> dict[str, dict[str, Kind]]:
    """Module, then name, of one file of ``names/``."""
    found: dict[str, dict[str, Kind]] = {}
    file = files("modelguard_serialization") / "_pickle" / "names" / f"{package}.txt"
    for line in file.read_text("utf-8").splitlines() if package.isidentifier() and file.is_file() else ():
        if line and not line.startswith("#"):
            head, _, names = line.partition(": ")
            kind, _, module = head.partition(" ")
            found.setdefault(module, {}).update(dict.fromkeys(names.split(), cast(Kind, kind)))
    return found


def allowed(module: str, name: str) -> Kind | None:
    """How ``module.name`` may be used; None when it is on no list. The match is exact: a dotted name is allowed only as a whole."""
    if module == "__torch__" or module.startswith("__torch__."):
        return "class"  # TorchScript's own; Python's unpickler finds it only in a file of the artifact, which is looked for
    kind = _names("common").get(module, {}).get(name)
    return kind if kind is not None else _names(module.partition(".")[0].removeprefix("_")).get(module, {}).get(name)
