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
TEMPLATE = 1 << 18
"""Characters of a template that is parsed."""
FOLDED = 4096
"""Characters of a constant that is put together from others."""
FOLD_DEPTH = 60
"""Expressions in expressions that are worked out."""
TEXT = 64 << 20
"""Bytes of a text file that is decoded whole."""
CODE = 2 << 20
"""Bytes of a source file that is parsed."""
CODE_NESTING = 150
"""Brackets in brackets in source code. CPython itself refuses 200."""
FOLDED_CODE = 1 << 18
"""Bytes of a constant that code puts together, or decodes."""
EXECUTED = 3
"""Code in text that code executes, in its turn."""
FOLD_STEPS = 200_000
"""Expressions of one source file that are worked out."""
SEARCHED = 16 << 20
"""Bytes of a file that is searched for programs inside it."""
NOTES = 1 << 16
"""Bytes of one piece of an ONNX file's metadata, from which on it is reported."""
