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
DOCUMENT = 64 << 20
"""Bytes of a JSON or TOML document that is parsed; tokenizers of a million entries are half as large."""
YAML = 1 << 17
"""Bytes of a YAML document that is parsed, in pure Python and so slowly; configurations are a tenth of it."""
NODES = 1_000_000
"""Values of one document that are walked, each as often as it is reached."""
FIELDS = 5_000_000
"""Fields of protobuf messages, or entries of a FlatBuffers list, walked in one file; a graph of 100 000 nodes has a million."""
