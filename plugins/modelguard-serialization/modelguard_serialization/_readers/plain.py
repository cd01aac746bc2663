"""What nobody runs: text, pictures, recordings, documents, tables, and models that are numbers and nothing else.

A script in a PDF document is not looked for: PDF viewers confine it, and no loader of models opens PDF.
"""

from __future__ import annotations

import json

from modelguard_serialization._archive_rules import POLYGLOT
from modelguard_serialization._readers._archive import put
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_TEXT_MODELS = frozenset({"a LightGBM model", "a model of XGBoost or CatBoost", "a PMML model"})
_HEADER = 100_000_000
"""Bytes of a safetensors header, the limit of the reference library."""


class Plain(Reader):
    """Recognised by all of its content, so that what is no such thing counts as not looked at. What lies behind a picture goes on."""

    what = "text, a picture, a recording, a document or a table"
    rules = (POLYGLOT,)

    def said(self, blob: Blob) -> str:
        return self.what if blob.kind.end else blob.kind.what

    def recognise(self, blob: Blob) -> bool:
        kind = blob.kind
        return kind.matter == "inert" or kind.end > 0

    def read(self, blob: Blob, look: Look) -> None:
        kind = blob.kind
        if not kind.end:
            return
        look.find(POLYGLOT.id, blob, f"is {kind.what}; do not load it", at=kind.end, key="behind")
        put(look, blob, "(after)", blob.data[kind.end :], kind.end)


class TextModels(Reader):
    """Trees and coefficients in words: those who load them parse numbers and names, and call nothing that the file names."""

    what = "a model in text"
    format = "text-model"

    def recognise(self, blob: Blob) -> bool:
        return blob.head(1) in (b"{", b"t", b"<", b"\n", b"\xef") and blob.kind.what in _TEXT_MODELS

    def read(self, blob: Blob, look: Look) -> None:
        return None


class Safetensors(Reader):
    """A member of an archive that is safetensors; a file of its own is a checkpoint, which the core reads."""

    what = "safetensors"
    format = "safetensors"

    def recognise(self, blob: Blob) -> bool:
        size = int.from_bytes(blob.head(8), "little")
        return 2 <= size <= min(_HEADER, len(blob.data) - 8) and blob.data[8] == 0x7B and bool(blob.members)

    def read(self, blob: Blob, look: Look) -> None:
        size = int.from_bytes(blob.head(8), "little")
        try:
            header = json.loads(bytes(blob.data[8 : 8 + size]))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise NotReadError("has a safetensors header that is broken") from error
        if max(ends, default=0) != len(blob.data) - 8 - size:
            raise NotReadError("is safetensors of another size than its header says")
