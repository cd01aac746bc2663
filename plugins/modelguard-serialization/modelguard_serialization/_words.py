"""Word lists as they are read."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """What stands between the spaces."""
    return frozenset(text.split())
