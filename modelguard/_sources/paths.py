"""Names that a repository listing, an index or a model writes down, and whether they may become a path."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_DRIVE = re.compile(r"[A-Za-z]:")


def unsafe_path(name: str) -> str:
    """Why ``name`` must not be used as a path inside an artifact, as the end of "its path ..."; empty when it may."""
    if not name or name.endswith("/"):
        return "is empty or ends in a slash"
    if "\0" in name:
        return "contains a NUL byte"
    if "\\" in name:
        return "contains a backslash"
    if name.startswith("/") or _DRIVE.match(name):
        return "is absolute"
    if ".." in name.split("/"):
        return "leaves the artifact with '..'"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return ""


def normal_path(name: str) -> str:
    """``name`` without ``.`` and empty components: the form artifact paths have."""
    return PurePosixPath(name).as_posix()
