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
PICKLE_OPCODES = 200_000_000
"""Opcodes of one pickle. What the deadline leaves time for is less."""
PICKLE_VALUES = 50_000_000
"""Values of one pickle that are held: in its memo, and in its tuples, lists, dictionaries and sets."""
PICKLE_MARKS = 1_000_000
"""Marks that are open at once."""
PICKLE_LINE = 1 << 26
"""Bytes of an argument that ends with its line."""
PICKLE_TEXT = 1 << 16
"""Bytes of a text that is decoded; a longer one is no name, and stays bytes."""
PICKLE_MEMO = 1 << 20
"""Memo index up to which gaps are no oddity: the C unpickler makes room for every index up to the largest."""
PICKLE_STREAMS = 100_000
"""Pickles that follow each other in one file, those of arrays of objects included."""
NESTED = 4
"""Pickles in the bytes and texts of pickles, and compressions and encodings around them."""
TORCH_PICKLE = 1 << 28
"""Bytes of the pickle of a torch file that is opened as a checkpoint, unpacked."""
TORCH_OPCODES = 50_000_000
"""Opcodes of it."""
TORCH_VALUES = 5_000_000
"""Values in what it stands for that are looked through for tensors."""
TORCH_SHARED = 100_000
"""Of those, how many may be come to a second time."""
TORCH_DEPTH = 64
"""Dictionaries, lists and modules in each other."""
TORCH_TENSORS = 1_000_000
"""Tensors of a torch file."""
TORCH_STORAGE = 1 << 32
"""Bytes of a compressed storage, unpacked. torch stores them as they are."""
TORCH_EXPANDED = 1 << 26
"""Bytes that a tensor whose elements share memory (expand) may take where its storage has fewer."""
NOTES = 1 << 16
"""Bytes of one piece of an ONNX file's metadata, from which on it is reported."""
