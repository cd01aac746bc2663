"""Tensors that are dead, copies of each other, or almost tied."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard import Checkpoint, TensorInfo

EMBEDDING = ("wte.weight", "embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight", "shared.weight")
HEAD = ("lm_head.weight", "embed_out.weight", "output_layer.weight", "output.weight")
SMALLEST = 64
"""Elements below which equal or constant matrices mean nothing."""
HEAD_BYTES = 4096


def is_matrix(tensor: TensorInfo) -> bool:
    return len(tensor.shape) >= 2 and tensor.size >= SMALLEST


def constant(checkpoint: Checkpoint, tensor: TensorInfo) -> bool:
    """Whether every element has the same bytes."""
    data = np.frombuffer(checkpoint.raw(tensor.name), np.uint8).reshape(tensor.size, -1)
    return bool((data[: 1 << 12] == data[0]).all() and (data == data[0]).all())


def duplicates(checkpoint: Checkpoint, tensors: list[TensorInfo]) -> list[list[str]]:
    """Groups of names whose tensors have the same dtype, shape and bytes; only such as share their first bytes are hashed."""
    groups: dict[Any, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.shape, bytes(checkpoint.raw(tensor.name)[:HEAD_BYTES])].append(tensor)
    found: dict[bytes, list[str]] = defaultdict(list)
    for group in groups.values():
        for tensor in group if len(group) > 1 else ():
            digest = hashlib.blake2b(checkpoint.raw(tensor.name), digest_size=16)
            digest.update(repr((tensor.dtype, tensor.shape)).encode())
            found[digest.digest()].append(tensor.name)
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


def is_tie(names: list[str]) -> bool:
    """Whether a group of equal tensors is the embedding under its usual names."""
    return all(name.endswith(EMBEDDING + HEAD) for name in names)


def almost_tied(checkpoint: Checkpoint) -> Iterator[tuple[TensorInfo, str, NDArray[np.int64]]]:
    """(head, embedding name, rows that differ) where nine rows in ten or more are equal but not all."""
    for head in checkpoint.tensors.values():
        if not head.name.endswith(HEAD):
            continue
        for embedding in checkpoint.tensors.values():
            if embedding.name.endswith(EMBEDDING) and (embedding.shape, embedding.dtype) == (head.shape, head.dtype) and is_matrix(head):
                ours = np.frombuffer(checkpoint.raw(head.name), np.uint8).reshape(head.shape[0], -1)
                theirs = np.frombuffer(checkpoint.raw(embedding.name), np.uint8).reshape(head.shape[0], -1)
                rows = np.flatnonzero((ours != theirs).any(axis=1))
                if 0 < len(rows) <= 0.1 * len(ours):
                    yield head, embedding.name, rows
