"""Weights and tables that name no code, recognised by what they begin and end with; and models that cannot be read."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from modelguard_serialization._format_rules import NATIVE_MODEL
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader


def _starts(*marks: bytes) -> Callable[[Blob], bool]:
    return lambda blob: blob.head(64).startswith(marks)


def _both(mark: bytes) -> Callable[[Blob], bool]:
    return lambda blob: blob.head(len(mark)) == mark and len(blob.data) > 2 * len(mark) and bytes(blob.data[-len(mark) :]) == mark


def _matlab(blob: Blob) -> bool:
    head = blob.head(128)
    return head.startswith(b"MATLAB 5.0 MAT-file") and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def _mil_blob(blob: Blob) -> bool:
    """MILBlob storage of an mlpackage: count, version 2, and 64 bytes on the first entry's sentinel."""
    head = blob.head(68)
    return len(head) == 68 and head[4:8] == b"\2\0\0\0" and head[64:68] == b"\xef\xbe\xad\xde"


def _tree(blob: Blob) -> bool:
    return bool(re.match(rb"tree\r?\nversion=v\d+\r?\n", blob.head(64)))


def _ncnn(blob: Blob) -> bool:
    return bool(re.match(rb"7767517\r?\n", blob.head(16)))


def _paddle_weights(blob: Blob) -> bool:
    head = blob.head(24)
    return blob.ending == ".pdiparams" and head[:4] == bytes(4) and (head[4:12] == bytes(8)) and len(head) == 24


@dataclass(frozen=True)
class Plain(Reader):
    """Bytes of a kind that its loaders take for numbers, names and trees only; ``unread`` says why the bytes are not looked at, if so."""

    what: str  # type: ignore[misc]
    known: Callable[[Blob], bool]
    model: bool = True  # type: ignore[misc]
    unread: str = ""

    def recognise(self, blob: Blob) -> bool:
        return self.known(blob)

    def read(self, blob: Blob, look: Look) -> None:
        if self.unread:
            raise NotReadError(self.unread)


class TensorRt(Reader):
    what = "a TensorRT engine"
    rules = (NATIVE_MODEL,)
    model = True

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(8192)
        # Ultralytics writes the length of a JSON text and the text before the engine.
        size = struct.unpack("<i", head[:4])[0] if len(head) >= 4 else 0
        behind = bytes(blob.data[4 + size : 8 + size]) if head[4:5] == b"{" and 0 < size < 1 << 20 else b""
        return head[:4] in (b"ftrt", b"ptrt") or behind in (b"ftrt", b"ptrt") or blob.ending in (".engine", ".trt", ".plan")

    def read(self, blob: Blob, look: Look) -> None:
        look.find("MG0337", blob, "is compiled for one kind of GPU, with plugins in native code", key="TensorRT")
        raise NotReadError("is a TensorRT engine, whose compiled code cannot be read")


PLAIN: tuple[Plain, ...] = (
    Plain("a Parquet table", _both(b"PAR1"), model=False),
    Plain("an Arrow table", lambda blob: blob.head(6) == b"ARROW1" and bytes(blob.data[-6:]) == b"ARROW1", model=False),
    Plain("a CatBoost model", _starts(b"CBM1")),
    Plain(
        "an XGBoost model in UBJSON",
        _starts(b"{L\0\0\0\0\0\0\0\x07learner", b"{i\x07learner", b"{L\0\0\0\0\0\0\0\x07version", b"{i\x07version"),
    ),
    Plain("an XGBoost model in the old binary form", _starts(b"binf")),
    Plain("a LightGBM model", _tree),
    Plain("an MXNet parameter file", _starts(struct.pack("<QQ", 0x112, 0))),
    Plain("a MATLAB file", _matlab),
    Plain("weights of a Core ML package", _mil_blob),
    Plain("an ncnn network", _ncnn),
    Plain("Paddle weights", _paddle_weights),
    Plain(
        "an ONNX Runtime model",
        lambda blob: blob.head(8)[4:] == b"ORTM",
        unread="is in ONNX Runtime's own format, whose graph is not read; the ONNX file it was made of can be",
    ),
    Plain("an MNN model", lambda blob: blob.ending == ".mnn", unread="is an MNN model, which is not read"),
    Plain(
        "an ExecuTorch program",
        lambda blob: re.fullmatch(rb"ET\d\d", blob.head(8)[4:]) is not None,
        unread="is an ExecuTorch program, which is not read",
    ),
    Plain("a RKNN model", _starts(b"RKNN"), unread="is compiled for Rockchip processors and cannot be read"),
    Plain(
        "a GGML model of before GGUF",
        _starts(b"lmgg", b"fmgg", b"tjgg", b"algg"),
        unread="is in a format of llama.cpp of before GGUF, which is not read",
    ),
)
