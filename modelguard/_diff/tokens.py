"""Names for the rows of a token embedding, from the artifact's tokenizer.json. It is parsed as JSON and never run."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from typing import Any

from modelguard.artifact import Artifact
from modelguard.errors import ArtifactError

LARGEST = 1 << 26
"""Bytes of a tokenizer.json up to which it is read; the largest known ones have 35 MB."""


def token_names(artifact: Artifact, near: str, rows: Iterable[int]) -> dict[int, str]:
    """Token strings by row, for the rows the tokenizer knows; empty when there is no usable tokenizer.json.

    ``near`` is the path of the file that holds the embedding: the tokenizer beside it wins over one elsewhere.
    """
    folder = posixpath.dirname(near)
    found = [file for file in artifact.files if posixpath.basename(file.path) == "tokenizer.json" and file.size <= LARGEST]
    found.sort(key=lambda file: (posixpath.dirname(file.path) != folder, file.path))
    if not found:
        return {}
    try:
        with found[0].open() as handle:
            parsed = json.loads(handle.read(LARGEST + 1))
        return _named(parsed, set(rows))
    except (ArtifactError, OSError, ValueError, RecursionError):
        # The row numbers are the finding; without names they still stand.
        return {}


def _named(parsed: Any, rows: set[int]) -> dict[int, str]:
    names: dict[int, str] = {}
    parsed = parsed if isinstance(parsed, dict) else {}
    model, added = parsed.get("model"), parsed.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        names = {index: token for token, index in vocabulary.items() if isinstance(index, int) and index in rows}
    elif isinstance(vocabulary, list):
        # Unigram models list [token, log probability] pairs.
        names = {
            index: str(vocabulary[index][0])
            for index in rows
            if index < len(vocabulary) and isinstance(vocabulary[index], list) and vocabulary[index]
        }
    for item in added if isinstance(added, list) else []:
        if isinstance(item, dict) and isinstance(item.get("id"), int) and item["id"] in rows and isinstance(item.get("content"), str):
            names[item["id"]] = item["content"]
    return dict(sorted(names.items()))
