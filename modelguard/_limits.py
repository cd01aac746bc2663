"""Every limit of what is read from artifacts and from the isolated worker, in one table.

A limit is checked before anything is allocated. What is past it is refused, or said not to have been looked at; never passed over.
``tests/unit/test_limits.py`` holds each from both sides.
"""

from __future__ import annotations

# Sources

FILES = 100_000
"""Files of an artifact, those left out included."""
PATHS = 16 << 20
"""Bytes of the names of an artifact's files, as UTF-8, together: reports list each file."""
PATH = 4096
"""Bytes of one name that a repository's listing gives (PATH_MAX of Linux)."""
LISTING = 256 << 20
"""Bytes of a listing kept in a Hub cache."""
RECORD = 4 << 20
"""Bytes of a text file of git's or the Hub client's that may be left out."""
GIT_OBJECT = 64 << 20
"""Bytes that a loose git object may inflate to and be left out."""
REFERRING_INDEX = 64 << 20
"""Bytes of an index that is looked through for the files it names."""
REFERRING_ONNX = (2 << 30) + (64 << 20)
"""Bytes of an ONNX file that is looked through for the files it names; protobuf messages end at 2 GiB."""
REFERENCES = 10_000
"""Files that one file may name as its shards or external data."""
XET_ANSWER = 64 << 20
"""Bytes of an answer of the Hub's Xet storage."""

# Formats

HEADER = 100_000_000
"""Bytes of a safetensors header, as in the reference implementation."""
TENSORS = 1_000_000
"""Tensors of one file. A mixture-of-experts model of 753 billion parameters has more than 65,536, in 141 files."""
RANK = 32
"""Dimensions a tensor may have: numpy before 2.0 can hold no more, and real tensors have fewer than ten."""
NAME = 4096
"""Characters of a tensor's name."""
BITS = 2**64 - 1
"""The size of a tensor in bits must fit 64 bits, as it must in the formats' reference implementations."""
PROTOBUF_FIELDS = 10_000_000
"""Fields walked in one protobuf file. A transformer of a thousand layers has about a million."""
ONNX_DEPTH = 100
"""Messages within messages in an ONNX file; protobuf's own parsers stop there as well."""
ONNX_TEXT = 1 << 24
"""Bytes of a string in an ONNX file."""
SHARD_INDEX = 1 << 26
"""Bytes of a shard index."""
SHARD_BRACKETS = 1_000_000
"""Brackets and braces of a shard index: JSON builds an object for each, and an honest index has six."""
SLACK = 1 << 28
"""Unclaimed bytes of external data that are read to see whether they are padding."""
TEXT = 1 << 28
"""Bytes of a text file that are looked through for what is no text."""
PICKLE_OPCODES = 100_000
"""Opcodes that are followed to see whether a file is a pickle. Nothing but a pickle decodes that far, so what does is taken for one."""
PICKLE_LINE = 1 << 26
"""Bytes of a pickled argument that ends with its line. What has more of them in one line is taken for a pickle too."""
CONFIGURATION = 32 << 20
"""Bytes of a ``config.json`` that says how a model runs."""
MAPS = 64
"""Maps kept open at once. CPython holds a file descriptor for each, and a checkpoint may have hundreds of shards."""

# Reports

REPORT_BYTES = 128 << 20
"""Bytes of findings and summaries, as JSON, that a report holds of all detectors; what has no room costs its detector completion."""
REASON = 2000
"""Characters of the reason why a detector did not complete, or an artifact could not be opened."""
ANSWER = 32 << 20
"""Bytes of one answer of a worker; a finding with attachments is the largest honest one."""
ANSWERS = 512 << 20
"""Bytes of all answers about one detector."""
FINDINGS = 10_000
"""Findings of one detector; past that nobody reads them, and SARIF consumers drop them."""
ATTACHMENT = 4 << 20
"""Bytes of one attachment."""
NOTE = 200
"""Characters of a note on progress, and of what a file is said to be."""
NESTING = 32
"""Levels of nesting in evidence or a summary; what reads a report recurses over it."""
WHOLE = 1 << 64
"""Largest whole number in evidence, either sign: beyond it readers of JSON disagree, and a float may not hold it."""
STORED_REPORT = 1 << 28
"""Bytes of a stored report that is read again."""

# Policies

POLICY_BYTES = 256 * 1024
"""Bytes of a policy file."""
LOCK_BYTES = 8 << 20
"""Bytes of a lock file: a hundred bytes for each file of each model."""
SIGNATURE = 64 << 20
"""Bytes of a signature over a model: a hundred for each file, or shard of one."""
CARD = 64 * 1024
"""Bytes of README.md in which the head of a model card must end."""
POLICY_DEPTH = 20
"""Levels of nesting in a policy file."""
POLICY_FILES = 32
"""Files that a policy extends, directly or through its parents."""
