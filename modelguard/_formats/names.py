"""Names that come out of a hostile file: how they are shown, and which of them deceive."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator

from modelguard.checkpoint import FormatProblem

SHOWN = 120
MAX_NAME = 4096
"""Characters a name may have."""
REPORTED = 20
"""Deceptive names reported one by one; the rest are counted."""

_DECEPTIVE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
"""Unicode categories that are invisible, reorder what surrounds them, or drive a terminal."""


def shown(text: str, limit: int = SHOWN) -> str:
    """``text`` for a message: in quotes, everything invisible escaped, cut when long."""
    safe = "".join(char if unicodedata.category(char) not in _DECEPTIVE else f"\\u{ord(char):04x}" for char in text[:limit])
    return f"'{safe}'" if len(text) <= limit else f"'{safe}...' ({len(text)} characters)"


def checkpoint_name(path: str, extensions: tuple[str, ...]) -> str:
    """``path`` without the ending of its format, or without whatever ending it has."""
    ending = next((item for item in extensions if path.lower().endswith(item)), posixpath.splitext(path)[1])
    return path[: len(path) - len(ending)]


def deceptive(text: str) -> str:
    """The first control, format or separator character of ``text`` as ``U+XXXX``, or an empty string."""
    if text.isascii() and text.isprintable():
        return ""
    return next((f"U+{ord(char):04X}" for char in text if unicodedata.category(char) in _DECEPTIVE), "")


def deceptive_names(file: str, names: Iterable[str]) -> Iterator[FormatProblem]:
    """A problem for each of the first names that deceive, and one that counts the others."""
    found = [(name, char) for name in names if (char := deceptive(name))]
    for name, char in found[:REPORTED]:
        message = f"{file}: the tensor name {shown(name)} contains the invisible or control character {char}"
        yield FormatProblem("MG0112", file, f"{message}; do not trust how tools display it, and ask the author to rename it", tensor=name)
    if len(found) > REPORTED:
        count = len(found) - REPORTED
        yield FormatProblem(
            "MG0112", file, f"{file}: {count} more tensor names contain invisible or control characters", evidence={"count": count}
        )
