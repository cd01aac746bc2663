"""Makes text that came out of an artifact safe to show: no terminal escape, no character that reorders or hides its neighbours."""

from __future__ import annotations

import re

# Cc control (C0, DEL, C1), Cf format (bidi overrides, zero-width, soft hyphen, tags), Cs lone surrogates, Co private use, Cn
# unassigned, Zl and Zp line separators: none of them is visible as what it is. Python's `str.isprintable` is false for exactly
# these and for Zs other than the space.
_TRANSPARENT = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Letters and marks that are printable by category and draw nothing."""
_COMMAND = re.compile(r"::(?=[\w-])")


def visible(text: str) -> str:
    """``text`` with every character that is not plainly visible written as ``\\xNN``, ``\\uNNNN`` or ``\\UNNNNNNNN``.

    The result is one line. A backslash stays itself: what is shown is for reading, not for parsing back. Nor does it hold what the log of a
    GitHub or Azure job would take for a command, ``::name::`` and ``##[name]``, wherever a line is wrapped (docs.github.com, "Workflow
    commands"; actions/runner, ActionCommand.cs).
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(char if char.isprintable() and not _TRANSPARENT.match(char) else _escaped(char) for char in text)
    start, mark, rest = text.rpartition("::")  # a command has two of them
    text = _COMMAND.sub(":\\\\x3a", start) + mark + rest
    return text.replace("##[", "#\\x23[").replace("##vso[", "#\\x23vso[")


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, the middle replaced by an ellipsis; both ends of a name tell it apart."""
    if len(text) <= width or width < 5:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
