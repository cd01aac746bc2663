"""The ``__metadata__`` of safetensors: texts that are code. The tensors themselves are the core's business."""

from __future__ import annotations

from modelguard_serialization import limits
from modelguard_serialization._documents import Pairs, parse_json
from modelguard_serialization._embedded import code_in
from modelguard_serialization._format_rules import METADATA_CODE
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader


class SafetensorsMetadata(Reader):
    """Source: https://github.com/huggingface/safetensors, "Format": eight bytes of length, then JSON."""

    what = "a safetensors file"
    rules = (METADATA_CODE,)
    format = "safetensors"

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(4096)
        size = int.from_bytes(head[:8], "little")
        return 1 < size <= len(blob.data) - 8 and head[8:9] == b"{" and head[9:].lstrip()[:1] in (b'"', b"}")

    def read(self, blob: Blob, look: Look) -> None:
        size = int.from_bytes(blob.head(8), "little")
        if size > limits.DOCUMENT * 2:
            raise NotReadError("is a safetensors file with a header too large to be read")
        try:
            header = bytes(blob.data[8 : 8 + size]).decode()
        except UnicodeDecodeError:
            raise NotReadError("is a safetensors file whose header is no text") from None
        if '"__metadata__"' not in header and "\\u00" not in header:
            return
        for tree in parse_json(header):
            for metadata in tree.all("__metadata__") if isinstance(tree, Pairs) else []:
                for key, value in metadata if isinstance(metadata, Pairs) else [("", metadata)]:
                    look.check()
                    for text in (key, value):
                        if isinstance(text, str) and (found := code_in(text)):
                            shown = text[:200]
                            look.find(
                                "MG0338",
                                blob,
                                f"its metadata {key[:80]!r} holds {found[0]}",
                                severity=found[1],
                                key=key[:80],
                                evidence={"text": shown},
                            )
