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


def _matlab(blob: Blob) -> bool:
    head = blob.head(128)
    return head.startswith(b"MATLAB 5.0 MAT-file") and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def _matlab_elements(blob: Blob) -> bool:
    """Elements of a type and a size, padded to eight bytes unless compressed, up to the end (MAT-File Format, 5)."""
    order = "<" if blob.head(128)[126:] == b"IM" else ">"
    at = 128
    while at + 8 <= len(blob.data):
        kind, size = struct.unpack_from(f"{order}II", blob.data, at)
        if kind not in (14, 15):
            return False
        at += 8 + size + (-size % 8 if kind == 14 else 0)
    return at == len(blob.data)


def _mil_blob(blob: Blob) -> bool:
    """MILBlob storage of an mlpackage: count, version 2, and 64 bytes on the first entry's sentinel."""
    head = blob.head(68)
    return len(head) == 68 and head[4:8] == b"\2\0\0\0" and head[64:68] == b"\xef\xbe\xad\xde"


def _ncnn(blob: Blob) -> bool:
    return bool(re.match(rb"7767517\r?\n", blob.head(16)))


def _is_text(blob: Blob) -> bool:
    try:
        return "\0" not in bytes(blob.data).decode()
    except UnicodeDecodeError:
        return False


def _catboost(blob: Blob) -> bool:
    """The magic, the size of a FlatBuffer, and that (catboost/libs/model/model_import_interface)."""
    return len(blob.data) >= 8 and struct.unpack_from("<I", blob.data, 4)[0] <= len(blob.data) - 8


def _ubjson(blob: Blob) -> bool:
    """Whether the bytes are one UBJSON object and nothing more. Source: https://ubjson.org/type-reference/."""
    try:
        return _ubjson_end(blob.data) == len(blob.data)
    except (IndexError, struct.error, ValueError):
        return False


_WIDTHS = {0x5A: 0, 0x4E: 0, 0x54: 0, 0x46: 0, 0x69: 1, 0x55: 1, 0x43: 1, 0x49: 2, 0x6C: 4, 0x64: 4, 0x4C: 8, 0x44: 8}
_OBJECT, _OBJECT_END, _ARRAY, _ARRAY_END, _STRING, _TYPE, _COUNT = b"{}[]S$#"


def _ubjson_end(data: memoryview) -> int:
    at, open_ = 0, list[int]()
    counted: list[int] = []
    while True:
        if open_ and counted[-1] == 0:
            open_.pop()
            counted.pop()
        elif open_ and counted[-1] < 0 and data[at] == open_[-1]:
            at += 1
            open_.pop()
            counted.pop()
        else:
            if open_ and counted[-1] > 0:
                counted[-1] -= 1
            if open_ and open_[-1] == _OBJECT_END:
                size, at = _ubjson_size(data, at)
                at += size
            mark, at = data[at], at + 1
            if mark in (_OBJECT, _ARRAY):
                kind, count = -1, -1
                if data[at] == _TYPE:
                    kind, at = data[at + 1], at + 2
                if data[at] == _COUNT:
                    count, at = _ubjson_size(data, at + 1)
                if kind >= 0:
                    if count < 0 or mark == _OBJECT or kind not in _WIDTHS:
                        raise ValueError("a typed collection that XGBoost does not write")
                    at += count * _WIDTHS[kind]
                else:
                    open_.append(_OBJECT_END if mark == _OBJECT else _ARRAY_END)
                    counted.append(count)
            elif mark == _STRING:
                size, at = _ubjson_size(data, at)
                at += size
            else:
                at += _WIDTHS[mark] if mark in _WIDTHS else _refuse(mark)
        if at > len(data):
            raise ValueError("cut off")
        if not open_:
            return at


def _ubjson_size(data: memoryview, at: int) -> tuple[int, int]:
    width = _WIDTHS.get(data[at], 0)
    size = int.from_bytes(data[at + 1 : at + 1 + width], "big", signed=data[at] != 0x55)
    if not width or size < 0:
        raise ValueError("no size")
    return size, at + 1 + width


def _refuse(mark: int) -> int:
    raise ValueError(f"no UBJSON: {mark}")


def _paddle_weights(blob: Blob) -> bool:
    head = blob.head(24)
    return blob.ending == ".pdiparams" and len(head) == 24 and head[:12] == bytes(12)


@dataclass(frozen=True)
class PlainModel(Reader):
    """Bytes of a kind that its loaders take for numbers, names and trees only.

    ``whole`` says whether they are that to their end; ``unread`` why they are not looked at, if so.
    """

    what: str  # type: ignore[misc]
    known: Callable[[Blob], bool]
    whole: Callable[[Blob], bool] = lambda blob: True
    unread: str = ""
    format = "plain-model"

    def recognise(self, blob: Blob) -> bool:
        return self.known(blob)

    def read(self, blob: Blob, look: Look) -> None:
        if self.unread:
            raise NotReadError(self.unread)
        if not self.whole(blob):
            raise NotReadError(f"begins as {self.what} and does not go on as one")


class TensorRt(Reader):
    what = "a TensorRT engine"
    rules = (NATIVE_MODEL,)
    format = "tensorrt"

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(8192)
        # Ultralytics writes the length of a JSON text and the text before the engine.
        size = struct.unpack("<i", head[:4])[0] if len(head) >= 4 else 0
        behind = bytes(blob.data[4 + size : 8 + size]) if head[4:5] == b"{" and 0 < size < 1 << 20 else b""
        return head[:4] in (b"ftrt", b"ptrt") or behind in (b"ftrt", b"ptrt") or blob.ending in (".engine", ".trt", ".plan")

    def read(self, blob: Blob, look: Look) -> None:
        look.find("MG0337", blob, "is compiled for one kind of GPU, with plugins in native code", key="TensorRT")
        raise NotReadError("is a TensorRT engine, whose compiled code cannot be read")


PLAIN: tuple[PlainModel, ...] = (
    PlainModel("a CatBoost model", _starts(b"CBM1"), _catboost),
    PlainModel(
        "an XGBoost model in UBJSON", lambda blob: re.match(rb"\{[iUlL]\0{0,7}\x07(?:learner|version)", blob.head(32)) is not None, _ubjson
    ),
    PlainModel(
        "an XGBoost model in the old binary form",
        _starts(b"binf"),
        unread="is in XGBoost's old binary form, which is not read; save it as JSON",
    ),
    PlainModel("an MXNet parameter file", _starts(struct.pack("<QQ", 0x112, 0))),
    PlainModel("a MATLAB file", _matlab, _matlab_elements),
    PlainModel("weights of a Core ML package", _mil_blob),
    PlainModel("an ncnn network", _ncnn, _is_text),
    PlainModel("Paddle weights", _paddle_weights),
    PlainModel(
        "an ONNX Runtime model",
        lambda blob: blob.head(8)[4:] == b"ORTM",
        unread="is in ONNX Runtime's own format, whose graph is not read; the ONNX file it was made of can be",
    ),
    PlainModel("a CTranslate2 model", lambda blob: re.match(rb"[\1-\x0a]\0\0\0.\0[A-Z]\w+Spec\0", blob.head(64), re.DOTALL) is not None),
    PlainModel("a fastText model", _starts(b"\xba\x16\x4f\x2f")),
    PlainModel("a KenLM model", _starts(b"mmap lm http://kheafield.com/code format version")),
    PlainModel("an MNN model", lambda blob: blob.ending == ".mnn", unread="is an MNN model, which is not read"),
    PlainModel(
        "an ExecuTorch program",
        lambda blob: re.fullmatch(rb"ET\d\d", blob.head(8)[4:]) is not None,
        unread="is an ExecuTorch program, which is not read",
    ),
    PlainModel("a RKNN model", _starts(b"RKNN"), unread="is compiled for Rockchip processors and cannot be read"),
    PlainModel(
        "a GGML model of before GGUF",
        _starts(b"lmgg", b"fmgg", b"tjgg", b"algg"),
        unread="is in a format of llama.cpp of before GGUF, which is not read",
    ),
    PlainModel(
        "an R object",
        lambda blob: re.match(rb"(?:RD[AX][23]\n)?[AXB]\n(?:\0\0\0[\2\3]|[\2\3]\0\0\0|[23]\n)", blob.head(16)) is not None,
        unread="is an R object, in which promises run code when it is used (CVE-2024-27322); it is not read",
    ),
)
