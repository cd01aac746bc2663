"""Names that come out of a hostile file: how they are shown, and which of them deceive."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator

from modelguard import _limits
from modelguard.checkpoint import FormatProblem

SHOWN = 120
MAX_NAME = _limits.NAME
REPORTED = 20
"""Deceptive names reported one by one; the rest are counted."""


def shown(text: str, limit: int = SHOWN) -> str:
    """``text`` for a message: in quotes, everything invisible escaped, cut when long."""
    safe = "".join(char if char.isprintable() else _escape(char) for char in text[:limit])
    return f"'{safe}'" if len(text) <= limit else f"'{safe}...' ({len(text)} characters)"


def checkpoint_name(path: str, extensions: tuple[str, ...]) -> str:
    """``path`` without the ending of its format, or without whatever ending it has."""
    ending = next((item for item in extensions if path.lower().endswith(item)), posixpath.splitext(path)[1])
    return path[: len(path) - len(ending)]


def deceptive(text: str) -> str:
    """The first character of ``text`` that is invisible, reorders what surrounds it or drives a terminal, as ``U+XXXX``; or empty.

    Those are the characters Unicode calls Other or Separator, but for the space (:meth:`str.isprintable`).
    """
    return "" if text.isprintable() else next(f"U+{ord(char):04X}" for char in text if not char.isprintable())


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def deceptive_names(file: str, names: Collection[str]) -> Iterator[FormatProblem]:
    """A problem for each of the first names that deceive, and one that counts the others."""
    if "".join(names).isprintable():
        return
    found = [(name, char) for name in names if (char := deceptive(name))]
    for name, char in found[:REPORTED]:
        message = f"{file}: the tensor name {shown(name)} contains the invisible or control character {char}"
        yield FormatProblem("MG0112", file, f"{message}; do not trust how tools display it, and ask the author to rename it", tensor=name)
    if len(found) > REPORTED:
        count = len(found) - REPORTED
        yield FormatProblem(
            "MG0112", file, f"{file}: {count} more tensor names contain invisible or control characters", evidence={"count": count}
        )
