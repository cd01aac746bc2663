"""Text to token ids, by the tokenizer an artifact carries as data: tokenizer.json, never a Python class."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelguard import Artifact, Checkpoint, artifact_json

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_TOKENS = 128
"""Tokens a text sample is cut to."""


def tokenizer(
    artifact: Artifact, checkpoint: Checkpoint, pad: int, *, left: bool
) -> Callable[[Sequence[str]], npt.NDArray[np.int64]] | None:
    """Text to token ids (N, T) by the artifact's tokenizer.json, padded with ``pad``; None when there is none that can be read."""
    settings = artifact_json(artifact, checkpoint, "tokenizer.json")
    if not settings:
        return None
    try:
        from tokenizers import Tokenizer

        coder = Tokenizer.from_str(json.dumps(settings))
    except Exception:  # missing library, or a tokenizer that it refuses: text samples then say that there is none
        return None
    coder.no_padding()
    coder.enable_truncation(MAX_TOKENS)

    def encode(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        rows = [item.ids or [pad] for item in coder.encode_batch(list(texts))]
        ids = np.full((len(rows), max(map(len, rows))), pad, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[slice(len(row) - len(tokens), None) if left else slice(len(tokens))] = tokens
        return ids

    return encode
