"""Logit lens: which tokens a vector in the residual stream promotes (nostalgebraist 2020)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard import Checkpoint, Target
from modelguard_rome._names import find_final_norm, find_unembedding

F64 = NDArray[np.float64]
TOKENIZER_LIMIT = 64 << 20
"""Bytes of a tokenizer file that are read at most."""
ROWS = 1 << 14
"""Rows of the unembedding that are held as float64 at a time."""


class Lens:
    """The unembedding of one checkpoint, with the final norm's scale and, where a tokenizer file is at hand, token strings."""

    def __init__(self, target: Target, checkpoint: Checkpoint, width: int) -> None:
        tensors = list(checkpoint.tensors.values())
        self.checkpoint = checkpoint
        self.unembedding = find_unembedding(tensors, width)
        norm = find_final_norm(tensors, width)
        self.scale: F64 = np.ones(width) if norm is None else checkpoint.read(norm.name).astype(np.float64)
        self.tokens = _token_strings(target) if self.unembedding is not None else {}

    def read(self, vector: F64, count: int = 5) -> dict[str, Any] | None:
        """The ``count`` tokens that ``vector`` (d,) promotes most and, with its sign turned, those the opposite promotes.

        A singular vector has no sign of its own: the direction with the more outstanding token comes first. ``z`` is the top
        token's logit in standard deviations over the vocabulary. None without an unembedding.
        """
        if self.unembedding is None:
            return None
        logits = self._logits((vector - vector.mean()) * self.scale)
        spread = float(logits.std())
        if not np.isfinite(spread) or spread == 0:
            return None
        z = (logits - logits.mean()) / spread
        ways = [self._top(z, count), self._top(-z, count)]
        ways.sort(key=lambda way: -way["z"])
        return {"promotes": ways[0]["tokens"], "z": ways[0]["z"], "opposite": ways[1]["tokens"]}

    def _logits(self, vector: F64) -> F64:
        assert self.unembedding is not None
        rows = self.checkpoint.read(self.unembedding.name)
        parts = [rows[start : start + ROWS].astype(np.float64) @ vector for start in range(0, len(rows), ROWS)]
        return np.nan_to_num(np.concatenate(parts))

    def _top(self, z: F64, count: int) -> dict[str, Any]:
        order = np.argsort(-z, kind="stable")[:count]
        return {"tokens": [self.tokens.get(int(i), f"#{i}") for i in order], "z": round(float(z[order[0]]), 2)}


def _token_strings(target: Target) -> dict[int, str]:
    """Token strings by id, from tokenizer.json or vocab.json; empty when neither can be read. Untrusted text."""
    for path in ("tokenizer.json", "vocab.json"):
        file = next((file for file in target.artifact.files if file.path.rsplit("/", 1)[-1] == path), None)
        if file is None or file.size > TOKENIZER_LIMIT:
            continue
        try:
            with file.open() as handle:
                content = json.loads(handle.read(TOKENIZER_LIMIT))
            vocabulary = content["model"]["vocab"] if path == "tokenizer.json" else content
            if isinstance(vocabulary, list):
                return {i: str(entry[0]) for i, entry in enumerate(vocabulary)}
            return {int(i): str(token) for token, i in vocabulary.items()}
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
    return {}
