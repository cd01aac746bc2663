"""What is followed, and no further: every limit of this distribution. Past one, what is left counts as not looked at."""

from __future__ import annotations

DEPTH = 8
"""Archives in archives."""
MEMBERS = 100_000
"""Members looked at in one file, at all depths."""
UNPACKED = 1 << 30
"""Bytes that are decompressed for one file, at all depths."""
FINDINGS = 200
"""Findings of one rule in one file; the others are counted in one more."""
NAME = 1 << 16
"""Bytes of a member's name."""
