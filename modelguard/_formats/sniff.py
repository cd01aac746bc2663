"""What a file is, by its first bytes, and whether a file that nobody parsed can matter.

Magic numbers are those of the formats' own specifications, as ``file(1)`` knows them too.
"""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import IO, Literal

from modelguard._formats.pickled import runs_as_pickle
from modelguard.artifact import ArtifactFile

HEAD = 4096
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
MAX_TEXT = 1 << 28
"""Bytes of a text file that are looked through for what is no text."""

ZIP_TAIL = 22 + 0xFFFF
"""Bytes before the end of a file in which the last record of a zip archive must begin."""

Matter = Literal["inert", "weights", "code", "archive", "unknown"]


@dataclass(frozen=True, slots=True)
class Kind:
    """``what`` completes the sentence "the file is ..."; ``matter`` says what it can do to somebody who uses the model."""

    what: str
    matter: Matter


_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"PK\x03\x04", Kind("a zip archive, as torch.save and numpy.savez write", "archive")),
    (0, b"PK\x05\x06", Kind("an empty zip archive", "archive")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "archive")),
    (0, b"Rar!\x1a\x07", Kind("a RAR archive", "archive")),
    (0, b"\x1f\x8b", Kind("gzip data", "archive")),
    (0, b"BZh", Kind("bzip2 data", "archive")),
    (0, b"\xfd7zXZ\x00", Kind("xz data", "archive")),
    (0, b"\x28\xb5\x2f\xfd", Kind("Zstandard data", "archive")),
    (257, b"ustar", Kind("a tar archive", "archive")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, as Keras writes", "weights")),
    (0, b"GGUF", Kind("a GGUF model", "weights")),
    (0, b"\x93NUMPY", Kind("a NumPy array", "weights")),
    (4, b"TFL3", Kind("a TensorFlow Lite model", "weights")),
    (4, b"ORTM", Kind("an ONNX Runtime flatbuffer", "weights")),
    (0, b"\x7fELF", Kind("an ELF program or library", "code")),
    (0, b"MZ", Kind("a Windows program or library", "code")),
    (0, b"\xcf\xfa\xed\xfe", Kind("a macOS program or library", "code")),
    (0, b"\xca\xfe\xba\xbe", Kind("a macOS or Java program", "code")),
    (0, b"\x00asm", Kind("a WebAssembly program", "code")),
    (0, b"\x89PNG\r\n\x1a\n", Kind("a PNG image", "inert")),
    (0, b"\xff\xd8\xff", Kind("a JPEG image", "inert")),
    (0, b"GIF8", Kind("a GIF image", "inert")),
    (8, b"WEBP", Kind("a WebP image", "inert")),
    (8, b"WAVE", Kind("a WAV recording", "inert")),
    (0, b"OggS", Kind("an Ogg recording", "inert")),
    (0, b"fLaC", Kind("a FLAC recording", "inert")),
    (0, b"ID3", Kind("an MP3 recording", "inert")),
    (4, b"ftyp", Kind("an MP4 video", "inert")),
    (0, b"%PDF-", Kind("a PDF document", "inert")),
    (0, b"PAR1", Kind("a Parquet table", "inert")),
    (0, b"ARROW1", Kind("an Arrow table", "inert")),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x8a}\](cX\x8c.\x4e\x4b\x28]")
_RUN_BY_GIT = re.compile(r"(?:^|/)\.git/(?:.*/)?(?:config|config\.worktree|hooks/[^/]*)$")
"""What git itself reads for commands to run: sources leave out those that have none."""
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)


def _endings(text: str) -> frozenset[str]:
    return frozenset(text.split())


WEIGHTS = _endings(
    ".bin .pt .pth .ckpt .pkl .pickle .joblib .dill .h5 .hdf5 .keras .gguf .ggml .msgpack .npz .npy .pb .tflite .mlmodel .ort .ot "
    ".params .caffemodel .engine .plan .trt .pdparams .pdmodel .nemo .mar .dat .data .weights .onnx_data .llamafile .skops"
)
"""Endings under which weights, or whole pickled objects, are kept."""
CODE = _endings(
    ".py .pyc .pyw .pyd .pyx .so .dll .dylib .exe .sh .bash .zsh .bat .cmd .ps1 .js .mjs .ts .ipynb .rb .pl .lua .jar .whl .egg .wasm "
    ".c .cc .cpp .cu .h .hpp .rs .go .java"
)
ARCHIVES = _endings(".zip .tar .tgz .gz .bz2 .xz .zst .7z .rar")
INERT = _endings(
    ".md .txt .json .jsonl .yaml .yml .toml .ini .cfg .csv .tsv .xml .html .rst .jinja .jinja2 .license .model .spm .vocab .tiktoken "
    ".merges .png .jpg .jpeg .gif .webp .svg .bmp .ico .wav .mp3 .ogg .flac .mp4 .pdf .parquet .arrow .bib .cff .log "
    ".gitattributes .gitignore .prototxt .proto .pbtxt"
)
"""Endings of files that are read as text, looked at or listened to."""


def magic(head: bytes) -> Kind | None:
    """What a file beginning with ``head`` is, or None when its first bytes do not say."""
    if head.startswith(LFS_POINTER):
        return Kind("a Git LFS pointer", "unknown")
    if _PICKLE.match(head):
        return Kind("a Python pickle", "code")
    if _HTML.match(head):
        return Kind("an HTML page", "inert")
    return next((kind for at, mark, kind in _MAGIC if head.startswith(mark, at)), None)


def extension(path: str) -> str:
    """The lower-case ending of a file name with its dot; the whole name of a dot file; empty when there is none."""
    name = posixpath.basename(path).lower()
    return name if name.startswith(".") and name.count(".") == 1 else posixpath.splitext(name)[1]


def by_name(path: str) -> Kind:
    """What a file that is not here would be, going by its name alone."""
    ending = extension(path)
    if ending in INERT or not ending:
        return Kind("text or a picture by its name", "inert")
    if ending in CODE:
        return Kind("code by its name", "code")
    if ending in ARCHIVES:
        return Kind("an archive by its name", "archive")
    if ending in WEIGHTS:
        return Kind("weights by its name", "weights")
    return Kind("of an unknown kind", "unknown")


def classify(file: ArtifactFile) -> Kind:
    """What a file that no format recognised is, by content first and by name where that is not enough.

    Text is inert unless its name or first line says that somebody runs or unpickles it. Raises
    :class:`~modelguard.errors.ArtifactError` when it cannot be read.
    """
    named = by_name(file.path)
    with file.open() as handle:
        head = handle.read(HEAD)
        if not head:
            return Kind("empty", "inert")
        if runs_as_pickle(handle, file.size):
            return Kind("a Python pickle", "code")
        handle.seek(len(head))
        if found := magic(head):
            # A picture's first bytes do not keep HDF5 or zip readers, which look further into a file, from loading it.
            hidden = found.matter == "inert" and named.matter != "inert"
            return Kind(f"{found.what}, and {named.what}", named.matter) if hidden else found
        text = file.size <= MAX_TEXT and _is_text(chain([head], iter(lambda: handle.read(1 << 20), b"")))
    if text:
        if _RUN_BY_GIT.search(file.path):
            return Kind("a git configuration or hook that may run commands", "code")
        if head.startswith(b"#!"):
            return Kind("a script", "code")
        if named.matter in ("code", "weights"):
            return Kind(f"text, and {named.what}", named.matter)
        return Kind("text", "inert")
    # SentencePiece models are protobuf: repeated field 1, each a piece of text and its score.
    if extension(file.path) in (".model", ".spm") and head[0] == 0x0A and head[2:3] == b"\n":
        return Kind("a SentencePiece vocabulary", "inert")
    if named.matter in ("code", "weights", "archive"):
        return named
    return Kind("binary data of an unknown kind", "unknown")


def _is_text(blocks: Iterable[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            if b"\0" in block:
                return False
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _at(handle: IO[bytes], place: int, mark: bytes) -> bool:
    handle.seek(max(0, place))
    return place >= 0 and handle.read(len(mark)) == mark


def trailing_zip(handle: IO[bytes], size: int) -> bool:
    """Whether a file of ``size`` bytes is a zip archive to readers that begin at its end.

    APPNOTE 4.3.16 lets nothing but a comment follow the end of central directory record; readers (CPython's zipfile, PyTorch's miniz)
    take the last record in :data:`ZIP_TAIL` bytes whatever follows it, and go by a zip64 record where its locator stands before (4.3.15).
    """
    start = max(0, size - ZIP_TAIL)
    handle.seek(start)
    tail = handle.read(ZIP_TAIL)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        record = tail[at : at + 22]
        if len(record) == 22:
            entries = int.from_bytes(record[10:12], "little")
            length, offset = int.from_bytes(record[12:16], "little"), int.from_bytes(record[16:20], "little")
            if at >= 20 and tail.startswith(b"PK\x06\x07", at - 20):
                return True
            # zipfile counts back from the record by the directory's length, miniz goes to its offset.
            if entries and any(_at(handle, place, b"PK\x01\x02") for place in (start + at - length, offset)):
                return True
            if not entries and at + 22 + int.from_bytes(record[20:], "little") == len(tail):
                return True
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return False
