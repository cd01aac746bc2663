"""GGUF, llama.cpp's format, read by a strict reader of its own."""

from __future__ import annotations

from modelguard import Artifact, ArtifactFile, Checkpoint, Format, FormatProblem

MAGIC = b"GGUF"


class GgufFormat(Format):
    id = "gguf"
    extensions = (".gguf",)

    def recognise(self, head: bytes, size: int) -> bool:
        return head.startswith(MAGIC)

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        from modelguard_serialization._formats.gguf_checkpoint import open_gguf

        return open_gguf(file, artifact)
