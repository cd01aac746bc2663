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
GGUF_KEYS = 65_536
"""Metadata of a GGUF file."""
GGUF_STRING = 1 << 26
"""Bytes of one text in its metadata: a whole tokenizer in JSON has some tens of millions."""
GGUF_ITEMS = 1 << 23
"""Strings and arrays in its arrays, all together: a vocabulary and its merges have less than a million."""
GGUF_NESTING = 4
"""Arrays in each other."""
GGUF_METADATA = 1 << 28
"""Bytes of its metadata."""
GGUF_TENSORS = 1_000_000
"""Tensors of one file."""
TEMPLATE = 1 << 20
"""Characters of a template that is parsed."""
FOLDED = 4096
"""Characters of a constant that is put together from others."""
FOLD_DEPTH = 60
"""Expressions in expressions that are worked out."""
TEXT = 32 << 20
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
DOCUMENT = 64 << 20
"""Bytes of a JSON or TOML document that is parsed; tokenizers of a million entries are half as large."""
YAML = 1 << 17
"""Bytes of a YAML document that is parsed, in pure Python and so slowly; configurations are a tenth of it."""
NODES = 1_000_000
"""Values of one document that are walked, each as often as it is reached."""
FIELDS = 5_000_000
"""Fields of protobuf messages, or entries of a FlatBuffers list, walked in one file; a graph of 100 000 nodes has a million."""
NAME = 1 << 16
"""Bytes of a member's name."""
