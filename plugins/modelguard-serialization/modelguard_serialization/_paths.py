"""Paths and addresses that configurations hold."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_DRIVE = re.compile(r"[A-Za-z]:")


def outside(path: str) -> bool:
    """Whether a path leaves the folder of the file that names it: absolute, by ``..``, of a home, or an address."""
    path = path.strip().replace("\\", "/")
    return path.startswith(("/", "~", "$")) or bool(_ADDRESS.match(path) or _DRIVE.match(path)) or ".." in path.split("/")
