"""What a file is, by its first bytes, and whether a file that nobody parsed can matter.

Magic numbers are those of the formats' own specifications, as ``file(1)`` knows them too.
"""

from __future__ import annotations

import re

from modelguard._formats.named import Kind, Matter, by_name, extension
from modelguard._formats.pickled import runs_as_pickle, view
from modelguard._formats.pictures import ENDS, sentencepiece
from modelguard._formats.readings import HDF5, other_readings
from modelguard._formats.texts import is_text, text_kind
from modelguard.artifact import ArtifactFile

HEAD = 4096
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_MAX_PARTS = 16
"""Pictures one behind the other in a file."""

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
    (0, HDF5, Kind("an HDF5 file, as Keras writes", "weights")),
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
    (0, b"BM", Kind("a BMP image", "inert")),
    (0, b"\0\0\1\0", Kind("an icon", "inert")),
    (0, b"PAR1", Kind("a Parquet table", "inert")),
    (0, b"ARROW1", Kind("an Arrow table", "inert")),
)
_PDF = "a PDF document"
_MATTER: dict[str, Matter] = {"an HDF5 file": "weights", "a Windows program": "code", "a Python pickle": "code", _PDF: "unknown"}
"""Of another reading that a file has; the others are archives."""
PAGE = Kind("an HTML page", "inert")
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x8a}\](cX\x8c.\x4e\x4b\x28]")


def magic(head: bytes) -> Kind | None:
    """What a file beginning with ``head`` is, or None when its first bytes do not say."""
    if head.startswith(LFS_POINTER):
        return Kind("a Git LFS pointer", "unknown")
    if _PICKLE.match(head):
        return Kind("a Python pickle", "code")
    if _HTML.match(head):
        return PAGE
    if head[:2] == b"{L" and head[11:18] == b"learner":
        return Kind("an XGBoost model", "weights")
    return next((kind for at, mark, kind in _MAGIC if head.startswith(mark, at)), None)


def classify(file: ArtifactFile) -> Kind:
    """What a file that no format recognised is (:func:`kind_of`).

    Raises :class:`~modelguard.errors.ArtifactError` when it cannot be read.
    """
    return kind_of(file.path, file.map())


def kind_of(path: str, data: memoryview) -> Kind:
    """What ``data`` under the name of ``path`` is, by content first and by name where that is not enough.

    ``matter`` is "inert" only where the whole content, to its last byte, is text, a picture, a recording, a document or a table that
    nobody runs or unpickles by itself, under any name that a loader would go by.
    """
    if not len(data):
        return Kind("empty", "inert")
    if runs_as_pickle(view(data), len(data)):
        return Kind("a Python pickle", "code")
    found = magic(bytes(data[:HEAD]))
    if found is PAGE:  # which the first bytes do not make it: all of it has to be text
        found = None
    if found is None and is_text(data):
        also = next((item for item in other_readings(data) if item != _PDF), "")
        return Kind(f"text, and {also}", _MATTER.get(also, "archive")) if also else text_kind(path, data)
    if found is None and extension(path) in (".model", ".spm") and sentencepiece(data) is not None:
        found = Kind("a SentencePiece vocabulary", "inert")
    if found is None:
        named = by_name(path)
        if named.matter in ("code", "weights", "archive"):
            return named
        also = next(other_readings(data), "")
        return Kind(f"binary data and {also}", _MATTER.get(also, "archive")) if also else Kind("binary data of an unknown kind", "unknown")
    return _inert(path, data, found) if found.matter == "inert" else found


def _inert(path: str, data: memoryview, found: Kind) -> Kind:
    """``found`` if that is all there is to the file, else what else it is."""
    for also in other_readings(data):
        if also != found.what:
            return Kind(f"{found.what} and {also} at once", _MATTER.get(also, "archive"))
    named = by_name(path)
    if named.matter != "inert":
        return Kind(f"{found.what}, and {named.what}", named.matter)
    at = 0
    for _ in range(_MAX_PARTS):
        part = found if at == 0 else magic(bytes(data[at : at + HEAD]))
        end = ENDS[part.what](data[at:]) if part is not None and part.what in ENDS else None
        if part is not None and part.what == "a SentencePiece vocabulary":
            end = len(data) - at
        if end is None and at == 0:
            return Kind(f"what begins like {found.what} and is none, or not all of one", "unknown")
        if end is None:
            break
        at = _padding(data, at + end)
        if at == len(data):
            return found
    if is_text(data[at:]):
        return found
    return Kind(f"{found.what} with {len(data) - at} bytes of something else behind it", "unknown", at)


def _padding(data: memoryview, at: int) -> int:
    """The first byte from ``at`` on that is not zero."""
    step = 1 << 20
    while at < len(data):
        block = bytes(data[at : at + step]).lstrip(b"\0")
        if block:
            return min(at + step, len(data)) - len(block)
        at += step
    return len(data)
