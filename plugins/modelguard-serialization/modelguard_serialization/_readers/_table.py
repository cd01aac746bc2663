"""Every reader, in the order in which they name a file that several of them recognise, and what of a file makes it worth asking one.

That first look costs a microsecond or two for all readers together, and a reader's module is imported only once a file passes it. It
may say yes where the reader then says no, never the other way round: a test asks every reader about every file that tests know of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from modelguard_serialization import _file_names as names
from modelguard_serialization import limits
from modelguard_serialization._code import programs
from modelguard_serialization._pickle.recognise import HEADER, is_legacy_torch
from modelguard_serialization._search import holds
from modelguard_serialization._text import begins_as_text
from modelguard_serialization._words import words
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Reader

_ZIP = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF
_HDF5 = b"\x89HDF\r\n\x1a\n"
_CPIO_AND_OTHERS = (b"\x60\xea", b"\x1f\x9d", b"\x1f\xa0", b"\xc7\x71", b"\x71\xc7")
_PROGRAMS = (b"\x7fELF", b"\xfe\xed\xfa", b"\xce\xfa", b"\xcf\xfa", b"MZ", b"\0asm", b"\xca\xfe\xba\xbe")
_JSON = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f{[\0\xc2\xe1\xe2\xe3\xef\xfe\xff"
"""First bytes of JSON: white space of every kind, in UTF-8 and wider, and marks of the order of bytes may stand before the bracket."""


def _each(first: bytes) -> tuple[bytes, ...]:
    """Beginnings of one byte."""
    return tuple(bytes([byte]) for byte in first)


def _pickle(blob: Blob) -> bool:
    return HEADER.match(blob.start) is not None or blob.runs


def _zip(blob: Blob) -> bool:
    return holds(blob.data[-_ZIP_TAIL:], _ZIP_END)


def _tar(blob: Blob) -> bool:
    head = blob.start
    # The stated checksum: octal digits, with spaces before and spaces and nulls after.
    return head[257:262] == b"ustar" or (len(head) >= 512 and head[148:156].strip(b" \0").isdigit())


def _hdf5(blob: Blob) -> bool:
    at, end, data = 0, len(blob.data) - len(_HDF5), blob.data
    while at <= end:
        if data[at] == 0x89 and data[at : at + len(_HDF5)] == _HDF5:
            return True
        at = at * 2 or 512
    return False


def _image(blob: Blob) -> bool:
    if blob.start[2:5] == b"-lh":
        return True
    return len(blob.data) > 0x8001 and any(bytes(blob.data[at : at + 5]) == b"CD001" for at in (0x8001, 0x8801, 0x9001))


def _markup(blob: Blob) -> bool:
    return blob.start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _json(blob: Blob) -> bool:
    head = blob.start
    if head[:1] not in _JSON:
        return False
    if head[:4].count(0) > 1 or head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as UTF-16 and UTF-32 are
        head = head.replace(b"\0", b"").lstrip(b"\xff\xfe")
    return head.decode("utf-8", "replace").lstrip("\ufeff").lstrip()[:1] in ("", "{", "[")


def _notebook(blob: Blob) -> bool:
    return blob.start[:1] == b"{" and b'"nbformat"' in blob.head(1 << 16)


def _template(blob: Blob) -> bool:
    if b"\0" in blob.start[:512]:
        return False
    named = names.TEMPLATES.search(blob.base) is not None
    return blob.ending not in names.NOT_TEMPLATES and (named or holds(blob.data, b"chat_template", b"{{", b"{%", b"\\u007b", b"\\u007B"))


def _hidden_program(blob: Blob) -> bool:
    return 64 < len(blob.data) <= limits.SEARCHED and programs.suspected(blob.data)


def _script(blob: Blob) -> bool:
    return names.SHELL_NAMES.fullmatch(blob.base) is not None or names.COMMANDS.search(blob.name.lower()) is not None


def _packages(blob: Blob) -> bool:
    return names.PACKAGES.fullmatch(blob.base) is not None or (blob.ending == ".txt" and "requirements/" in blob.name.lower())


def _short_text(blob: Blob) -> bool:
    return b"\0" not in blob.start and len(blob.data) <= limits.TEXT and begins_as_text(blob.start)


def _no_pickle(blob: Blob) -> bool:
    return HEADER.match(blob.start) is None and not blob.runs


def _plain_model(blob: Blob) -> bool:
    head = blob.start
    return head[4:8] in (b"ORTM", b"\2\0\0\0") or head[4:6] == b"ET" or (head[1:4] == bytes(3) and head[5:6] == b"\0")


@dataclass(frozen=True, slots=True)
class Entry:
    """One reader, or a tuple of them, by ``module:name``; asked about what begins with one of ``begins``, whose name ends with one of
    ``endings``, or of which ``looks`` says so."""

    path: str
    begins: tuple[bytes, ...] = ()
    endings: frozenset[str] = frozenset()
    looks: Callable[[Blob], bool] | None = None

    def readers(self) -> tuple[Reader, ...]:
        return _imported(self.path)


@cache
def _imported(path: str) -> tuple[Reader, ...]:
    module, _, name = path.partition(":")
    found: type[Reader] | tuple[Reader, ...] = getattr(import_module(f"{__package__}.{module}"), name)
    return found if isinstance(found, tuple) else (found(),)


ENTRIES: tuple[Entry, ...] = (
    Entry("onnx_content:OnnxReader", _each(b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72"), words(".onnx")),
    Entry("gguf:GgufReader", (b"GGUF",)),
    Entry("pickles:PickleReader", looks=_pickle),
    Entry("pickles:LegacyTorchReader", looks=lambda blob: blob.start[:1] in b"\x80L" and is_legacy_torch(blob.data)),
    Entry("arrays:NumpyReader", (b"\x93NUMPY",)),
    Entry("zips:TorchZips", (_ZIP,)),
    Entry("zips:Zips", (_ZIP,), looks=_zip),
    Entry("tars:Tars", looks=_tar),
    Entry("compressed:Gzips", (b"\x1f\x8b\x08",)),
    Entry("compressed:Bzip2s", (b"BZh",)),
    Entry("compressed:Xzs", (b"\xfd7zXZ\0", b"\x5d")),
    Entry("compressed:Zstds", (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16)))),
    Entry(
        "compressed:Zlibs",
        tuple(
            bytes((method, flags))
            for method in range(0x08, 0x80, 0x10)
            for flags in range(256)
            if not flags & 32 and (method << 8 | flags) % 31 == 0
        ),
    ),
    Entry("compressed:OldJoblibs", (b"ZF0x",)),
    Entry("sevenzip:SevenZips", (b"7z\xbc\xaf\x27\x1c",)),
    Entry(
        "sealed:Sealed",
        (
            *(b"Rar!", b"MSCF", b"hsqs", b"sqsh", b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18", b"\xff\x06", b"\x89LZO", b"LZIP", b"!<arch>"),
            *(b"0707", b"\xed\xab\xee\xdb", b"xar!", b"MSWIM", b"ZPQ", *_CPIO_AND_OTHERS),
        ),
        looks=_image,
    ),
    Entry("hdf5:Hdf5", looks=_hdf5),
    # A field's tag may be written with more bytes than it needs.
    Entry("tensorflow:TensorflowGraph", _each(b"\x08\x0a\x8a"), words(".meta .pb")),
    Entry("tensorflow:TensorflowText", endings=words(".pbtxt .pb .txt .prototxt")),
    Entry("tensorflow:KerasMetadata", endings=words(".pb")),
    Entry("tensorflow:TensorflowSide", (), words(".pb .index"), lambda blob: ".data-" in blob.base or ".tfevents." in blob.base),
    Entry("tflite:TfLite", looks=lambda blob: blob.start[4:8] == b"TFL3"),
    Entry("graphs:CoreMl", (b"\x08",)),
    Entry("graphs:Paddle", endings=words(".pdmodel")),
    Entry("graphs:Caffe", endings=words(".caffemodel .prototxt")),
    Entry("graphs:OpenVino", looks=_markup),
    Entry("plain_models:TensorRt", (b"ftrt", b"ptrt"), words(".engine .trt .plan"), lambda blob: blob.start[4:5] == b"{"),
    Entry("weights_metadata:SafetensorsMetadata", looks=lambda blob: blob.start[8:9] == b"{"),
    Entry("plain:Safetensors", looks=lambda blob: blob.start[8:9] == b"{"),
    Entry("skops:Skops", looks=lambda blob: blob.base == "schema.json"),
    Entry("msgpack:Msgpack", endings=words(".msgpack .mpack")),
    Entry("torchscript:TorchScript", looks=lambda blob: ".py" in blob.name and bool(blob.members)),
    Entry(
        "plain_models:PLAIN",
        (
            *(
                b"CBM1",
                b"{i",
                b"{U",
                b"{l",
                b"{L",
                b"binf",
                b"\x12\x01",
                b"MATLAB 5.0",
                b"7767517",
                b"\xba\x16\x4f\x2f",
                b"mmap lm ",
                b"RKNN",
            ),
            *(b"lmgg", b"fmgg", b"tjgg", b"algg", b"RDA", b"RDX", b"A\n", b"X\n", b"B\n"),
        ),
        words(".pdiparams .mnn"),
        _plain_model,
    ),
    Entry("tables:Tables", (b"PAR1", b"ARROW1")),
    Entry("plain:TextModels", (b"{", b"t", b"<", b"\n", b"\xef")),
    Entry(
        "programs:ProgramReader",
        (*_PROGRAMS, *(magic for magic, _ in programs.MAGICS)),
        names.PROGRAMS,
        lambda blob: blob.start[2:4] == b"\r\n" or ".so." in blob.base,
    ),
    Entry("programs:ShortcutReader", (b"\x4c\0\0\0",), names.SHORTCUTS, lambda blob: blob.start[:64].lstrip()[:1] == b"["),
    Entry("programs:HiddenProgramReader", looks=_hidden_program),
    Entry("code:PythonReader", (b"#!",), names.PYTHON, lambda blob: blob.ending == ".pth" and b"import" in blob.head(8192)),
    Entry("code:NotebookReader", (), words(".ipynb"), _notebook),
    Entry("scripts:ScriptReader", (b"#!",), names.SHELL, _script),
    Entry("scripts:RequirementsReader", looks=_packages),
    Entry("scripts:OtherCodeReader", (b"#!",), frozenset(names.LANGUAGES), lambda blob: blob.start[:256].lstrip()[:2] == b"<?"),
    Entry("templates:TemplateReader", looks=_template),
    Entry("framework_texts:SpacyConfig", endings=words(".cfg")),
    Entry("framework_texts:TritonConfig", endings=words(".pbtxt")),
    Entry("framework_texts:Modelfile", looks=lambda blob: blob.base.startswith("modelfile")),
    Entry("documents:Json", looks=_json),
    Entry("documents:Yaml", (b"%YAML", b"---"), words(".yaml .yml"), lambda blob: blob.base == "mlmodel"),
    Entry("documents:Toml", endings=words(".toml")),
    Entry("secrets:SecretReader", looks=_short_text),
    Entry("plain:Plain", looks=_no_pickle),
)


def _bits(chosen: Callable[[Entry], bool]) -> int:
    return sum(1 << number for number, entry in enumerate(ENTRIES) if chosen(entry))


_BY_BYTE = tuple(
    tuple((1 << number, entry.begins) for number, entry in enumerate(ENTRIES) if any(begin[0] == byte for begin in entry.begins))
    for byte in range(256)
)
_BY_ENDING = {
    ending: _bits(lambda entry: ending in entry.endings)  # noqa: B023 (called at once)
    for ending in frozenset().union(*(entry.endings for entry in ENTRIES))
}
_LOOKS = tuple((1 << number, entry.looks) for number, entry in enumerate(ENTRIES) if entry.looks is not None)


def every() -> tuple[Reader, ...]:
    """All readers, imported."""
    return tuple(reader for entry in ENTRIES for reader in entry.readers())


def asked(blob: Blob) -> list[Reader]:
    """The readers that may recognise ``blob``, in order; empty for empty bytes."""
    head = blob.start
    if not head:
        return []
    chosen = _BY_ENDING.get(blob.ending, 0)
    for bit, begins in _BY_BYTE[head[0]]:
        if head.startswith(begins):
            chosen |= bit
    for bit, looks in _LOOKS:
        if not chosen & bit and looks(blob):
            chosen |= bit
    found: list[Reader] = []
    while chosen:
        number = (chosen & -chosen).bit_length() - 1
        chosen &= chosen - 1
        found += ENTRIES[number].readers()
    return found


def recognising(blob: Blob) -> list[Reader]:
    """The readers that recognise ``blob``, in order."""
    return [reader for reader in asked(blob) if reader.recognise(blob)]
