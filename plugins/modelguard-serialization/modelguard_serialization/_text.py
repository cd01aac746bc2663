"""Telling the beginning of a text from bytes that only begin like one."""

from __future__ import annotations

import codecs


def begins_as_text(head: bytes) -> bool:
    """Whether ``head``, which may end within a character, is UTF-8 without nulls."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
