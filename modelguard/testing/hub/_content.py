"""What a Hub holds: repositories, their files, and the chunks Xet stores files as."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LFS_ENDINGS = (".safetensors", ".onnx", ".bin", ".onnx_data", ".data", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")


@dataclass
class Blob:
    """File content: bytes, or a file too large for memory."""

    content: bytes | Path
    lfs: bool
    size: int = field(init=False)
    sha256: str = field(init=False)
    blob_id: str = field(init=False)
    xet_hash: str = ""

    def __post_init__(self) -> None:
        self.size = len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size)
        for offset in range(0, self.size, 1 << 22):
            block = self.read(offset, min(1 << 22, self.size - offset))
            sha256.update(block)
            sha1.update(block)
        self.sha256 = sha256.hexdigest()
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n" % (self.sha256.encode(), self.size)
        self.blob_id = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest() if self.lfs else sha1.hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[offset : offset + length]
        with self.content.open("rb") as handle:
            handle.seek(offset)
            return handle.read(length)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        """The file as listings describe it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.blob_id}
        if self.xet_hash:
            entry["xetHash"] = self.xet_hash
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """A repository: trees by commit, commits by the name of a branch, tag or pull request."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    listed_also: list[dict[str, Any]] = field(default_factory=list)


class Xet:
    """Content-addressed storage as Xet has it: chunks (here of one size) in xorbs, one xorb for the new chunks of each file."""

    CHUNK = 1 << 16

    def __init__(self) -> None:
        self._chunks: dict[bytes, tuple[str, int]] = {}
        self._files: dict[str, list[tuple[str, int, int]]] = {}

    def store(self, blob: Blob) -> None:
        blob.xet_hash = hashlib.sha256(b"xet" + blob.sha256.encode()).hexdigest()
        xorb = hashlib.sha256(b"xorb" + blob.sha256.encode()).hexdigest()
        placed, fresh = [], 0
        for offset in range(0, blob.size, self.CHUNK):
            data = blob.read(offset, min(self.CHUNK, blob.size - offset))
            key = hashlib.sha256(data).digest()
            if key not in self._chunks:
                self._chunks[key] = (xorb, fresh)
                fresh += 1
            placed.append((*self._chunks[key], len(data)))
        self._files[blob.xet_hash] = placed

    def reconstruction(self, xet_hash: str, begin: int, end: int) -> dict[str, Any] | None:
        """Terms for bytes ``[begin, end)``: runs of neighbouring chunks in one xorb, whole chunks only."""
        if xet_hash not in self._files:
            return None
        terms: list[dict[str, Any]] = []
        offset = first = 0
        for xorb, index, length in self._files[xet_hash]:
            if offset < end and offset + length > begin:
                first = offset if not terms else first
                if terms and terms[-1]["hash"] == xorb and terms[-1]["range"]["end"] == index:
                    terms[-1]["range"]["end"] += 1
                    terms[-1]["unpacked_length"] += length
                else:
                    terms.append({"hash": xorb, "unpacked_length": length, "range": {"start": index, "end": index + 1}})
            offset += length
        return {"offset_into_first_range": max(0, begin - first), "terms": terms, "fetch_info": {}}
