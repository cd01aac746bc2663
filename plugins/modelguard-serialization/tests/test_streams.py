"""Tar archives, compressed streams, 7z, and archives that are only recognised."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sys
import tarfile
import zlib
from collections.abc import Callable

import joblib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization import _tar, limits
from modelguard_serialization.reader import Look, NotReadError
from modelguard_serialization.testing import look_through

from modelguard import Severity

TEXT = b"words, and nothing else\n"
UNKNOWN = bytes(range(128, 256)) * 4
"""What no reader knows, so that it is missed wherever it is handed on."""


def rules(look: Look) -> set[str]:
    return {item.rule for item in look.findings}


def header(name: str = "a.txt", size: int = len(TEXT), kind: bytes = b"0", **changes: bytes) -> bytes:
    """A ustar header; ``changes`` are fields written as they are."""
    fields = {
        "name": name.encode().ljust(100, b"\0"),
        "modes": b"0000644\0" + b"0000000\0" * 2,
        "size": b"%011o\0" % size,
        "mtime": b"%011o\0" % 0,
        "sum": b" " * 8,
        "kind": kind,
        "target": bytes(100),
        "magic": b"ustar\x0000",
        "rest": bytes(247),
        **changes,
    }
    block = b"".join(fields.values())
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    text = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        size = len(body) + 2
        text += str(size if size < 100 else size + 1).encode() + body
    return header("pax", len(text), b"x") + padded(text)


END = bytes(1024)
ONE = header() + padded(TEXT)


def test_an_archive_as_it_should_be_has_nothing_to_tell() -> None:
    look, by = look_through("model.nemo", ONE + END)
    assert (look.findings, look.missed) == ([], [])
    assert [reader.what for reader in by] == ["a tar archive"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(form: int) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, data in {"a.txt": TEXT, "folder/" * 12 + "b.txt": TEXT * 50, "folder/größe.txt": b""}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("folder/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../a.txt"
        archive.addfile(link)
    content = memoryview(made.getvalue())
    entries = [item for item in _tar.walk(content, lambda: None) if isinstance(item, _tar.Entry)]
    made.seek(0)
    with tarfile.open(fileobj=made) as archive:
        assert [item.name.rstrip("/") for item in entries] == archive.getnames()
        for entry, member in zip(entries, archive.getmembers(), strict=True):
            handle = archive.extractfile(member) if member.isfile() else None
            assert bytes(content[entry.begin : entry.begin + entry.size]) == (handle.read() if handle else b"")
    look, _ = look_through("a.tar", made.getvalue())
    assert (look.findings, look.missed) == ([], [])


# CVE-2007-4559 and CVE-2025-4517 (https://nvd.nist.gov/vuln/detail/CVE-2025-4517), of tarfile: names and links that lead out.
@pytest.mark.parametrize(
    "member",
    [
        header("../x.txt") + padded(TEXT),
        header("/etc/x.txt") + padded(TEXT),
        header("link", 0, b"2", target=b"/etc".ljust(100, b"\0")),
        header("a/link", 0, b"2", target=b"../../x".ljust(100, b"\0")),
        header("hard", 0, b"1", target=b"../x".ljust(100, b"\0")),
        header("device", 0, b"3"),
        pax(path="../x.txt") + ONE,
        pax(linkpath="/etc") + header("link", 0, b"2"),
        header("long", 10, b"L") + padded(b"../../x.t\0") + ONE,
    ],
)
def test_what_leads_out_is_told(member: bytes) -> None:
    look, _ = look_through("a.tar", member + END)
    assert rules(look) == {"MG0321"}


def test_writing_through_a_link_is_told() -> None:
    content = header("d", 0, b"2", target=b"sub".ljust(100, b"\0")) + header("d/a.txt") + padded(TEXT) + END
    look, _ = look_through("a.tar", content)
    assert rules(look) == {"MG0320"}


# CVE-2025-62518 (TARmageddon, https://nvd.nist.gov/vuln/detail/CVE-2025-62518): two sizes, so parsers lose step.
def test_two_sizes_of_one_member_are_told_and_both_readings_looked_at() -> None:
    hidden = header("hidden.bin", len(UNKNOWN)) + padded(UNKNOWN)
    look, _ = look_through("a.tar", pax(size=str(len(hidden))) + header("inner.tar", 0) + hidden + END)
    assert "MG0320" in rules(look)
    assert any("hidden.bin" in item for item in look.missed)


@pytest.mark.parametrize(
    "content",
    [
        ONE + END + header("late.bin", len(UNKNOWN)) + padded(UNKNOWN) + END,
        ONE + UNKNOWN + END,
        ONE + bytes(512) + UNKNOWN,
        header("link", len(UNKNOWN), b"2", target=b"x".ljust(100, b"\0")) + padded(UNKNOWN) + END,
        header("a.bin", 4096) + UNKNOWN,
        header("a.bin", len(UNKNOWN), magic=bytes(8)) + padded(UNKNOWN) + ONE[:100] + b"?" + ONE[101:] + END,
    ],
    ids=["behind the end", "between", "junk behind", "link with content", "cut off", "wrong checksum"],
)
def test_what_some_readers_pass_over_is_told_and_looked_at(content: bytes) -> None:
    look, _ = look_through("a.tar", content)
    assert "MG0320" in rules(look)
    assert look.missed


def test_old_archives_without_a_mark_are_known_by_their_checksum() -> None:
    look, by = look_through("data", header(magic=bytes(8)) + padded(TEXT) + END)
    assert [reader.what for reader in by] == ["a tar archive"]
    assert not look.missed


def test_a_mark_alone_makes_an_archive_that_is_not_read() -> None:
    look, by = look_through("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(249) + b"ustar\x0000" + bytes(300))
    assert "a tar archive" in [reader.what for reader in by]
    assert look.missed


def test_members_with_holes_are_missed() -> None:
    look, _ = look_through("a.tar", header(kind=b"S") + padded(TEXT) + END)
    assert "holes" in look.missed[0]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_ends_in_an_answer(data: st.DataObject) -> None:
    content = bytearray(pax(path="b.txt") + ONE + header("c", 3, b"S") + padded(b"abc") + END)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        for item in _tar.walk(memoryview(content), lambda: None):
            assert item.begin >= 0
    except NotReadError:
        pass


# Streams.

PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("model.pkl.gz", gzip.compress),
    "bzip2": ("model.pkl.bz2", bz2.compress),
    "xz": ("model.pkl.xz", lzma.compress),
    "lzma": ("model.pkl.lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "zlib": ("model.pkl.z", zlib.compress),
}


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_compressed_is_looked_at_under_any_name(kind: str) -> None:
    _, pack = PACKED[kind]
    look, by = look_through("notes.txt", pack(TEXT * 100))
    assert len(by) == 1
    assert (look.findings, look.missed) == ([], [])
    look, _ = look_through("notes.txt", pack(UNKNOWN))
    assert look.missed


@pytest.mark.parametrize("kind", PACKED)
def test_what_lies_behind_or_in_a_second_stream_is_looked_at(kind: str) -> None:
    _, pack = PACKED[kind]
    look, _ = look_through("a", pack(TEXT) + UNKNOWN)
    assert "MG0320" in rules(look)
    assert look.missed
    look, _ = look_through("a", pack(TEXT) + pack(TEXT))
    assert (look.findings, look.missed) == ([], [])
    look, _ = look_through("a", pack(TEXT) + pack(UNKNOWN))
    assert look.missed


@pytest.mark.parametrize("kind", PACKED)
def test_what_comes_before_a_break_is_looked_at(kind: str) -> None:
    """Unpicklers run what they have read before they come upon the break (nullifAI, ReversingLabs 2025)."""
    _, pack = PACKED[kind]
    noise = UNKNOWN + random.Random(0).randbytes(1_000_000)
    look, _ = look_through("a", pack(noise)[:-1000])
    assert any("cut off or broken" in item for item in look.missed)
    assert any("of no kind" in item for item in look.missed), "its content went on to other readers"
    look, _ = look_through("a", pack(noise)[:-1000] + bytes(1000))
    assert any("of no kind" in item for item in look.missed)


def test_a_wrong_sum_hides_nothing() -> None:
    for packed in (gzip.compress(UNKNOWN), zlib.compress(UNKNOWN)):
        look, _ = look_through("a", packed[:-8] + bytes(byte ^ 1 for byte in packed[-8:]) if packed[0] == 31 else packed[:-1] + b"\xee")
        assert [item.severity for item in look.findings] == [Severity.MEDIUM]
        assert any("of no kind" in item for item in look.missed)


@pytest.mark.parametrize(
    "text", [b"x^2 + y^2 = z^2, as everybody knows\n" * 5, b"hY\n", b"8 apples\n", b"(S stands for sum)\n", b"HG " * 3000]
)
def test_text_that_begins_like_a_stream_is_text(text: bytes) -> None:
    look, by = look_through("notes.txt", text)
    assert [reader.what for reader in by] == ["text, a picture, a recording, a document or a table"]
    assert not look.missed


@pytest.mark.parametrize("how", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_files_are_unpacked(how: tuple[str, int]) -> None:
    made = io.BytesIO()
    joblib.dump({"a": [1.5] * 100}, made, compress=how)
    look, by = look_through("model.joblib", made.getvalue())
    assert len(by) == 1
    assert not [item for item in look.findings if item.rule.startswith("MG032")]


def test_a_stream_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNPACKED", 1 << 16)
    look, _ = look_through("a.gz", gzip.compress(bytes(1 << 22)))
    assert rules(look) == {"MG0322"}
    assert look.missed


# CVE-2005-1228 (https://nvd.nist.gov/vuln/detail/CVE-2005-1228): the name in a gzip header, which gunzip -N goes by.
def test_the_name_in_a_header_must_stay_inside() -> None:
    packed = gzip.compress(TEXT)
    look, _ = look_through("a.gz", packed[:3] + b"\x08" + packed[4:10] + b"../x\0" + packed[10:])
    assert rules(look) == {"MG0321"}
    look, _ = look_through("a.gz", packed[:3] + b"\x08" + packed[4:10] + b"a.txt\0" + packed[10:])
    assert not rules(look)


def test_zstandard_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    look, by = look_through("a.zst", b"\x28\xb5\x2f\xfd" + bytes(20))
    assert by
    assert "modelguard-serialization[archives]" in look.missed[0]


def test_7z_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    # nullifAI (https://www.reversinglabs.com/blog/rl-identifies-malware-ml-model-hosted-on-hugging-face): 7z instead of zip.
    monkeypatch.setitem(sys.modules, "py7zr", None)
    head = bytes(8) + (2).to_bytes(8, "little")
    body = b"\x17\x06"
    look, by = look_through(
        "a.7z", b"7z\xbc\xaf\x27\x1c\0\4" + zlib.crc32(b"").to_bytes(4, "little") + head + zlib.crc32(body).to_bytes(4, "little") + body
    )
    assert [reader.what for reader in by] == ["a 7z archive"]
    assert "modelguard-serialization[archives]" in look.missed[0]


def test_7z_is_unpacked() -> None:
    py7zr = pytest.importorskip("py7zr")
    made = io.BytesIO()
    with py7zr.SevenZipFile(made, "w") as archive:
        archive.writestr(TEXT, "a.txt")
        archive.writestr(UNKNOWN, "b.bin")
    look, _ = look_through("a.7z", made.getvalue())
    assert not look.findings
    assert look.missed == ["a.7z!b.bin: is of no kind that is known"]


def test_an_encrypted_7z_is_said_to_be_one() -> None:
    body = b"\x17\x06\x06\xf1\x07\x01"
    head = bytes(8) + len(body).to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little")
    look, _ = look_through("a.7z", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + head + body)
    assert look.missed == ["is encrypted"]


@pytest.mark.parametrize(
    "content",
    [
        b"Rar!\x1a\x07\x01\0" + bytes(30),
        b"MSCF\0\0\0\0" + bytes(30),
        b"\x04\x22\x4d\x18" + bytes(30),
        b"!<arch>\n" + bytes(30),
        b"hsqs" + bytes(30),
        bytes(0x8001) + b"CD001" + bytes(30),
        b"\x60\xea\x29\0\x1e" + bytes(30),
        b"#\x80-lh5-" + bytes(30),
        b"\x1f\x9d\x90" + bytes(30),
    ],
)
def test_what_is_not_read_is_never_passed_over(content: bytes) -> None:
    look, by = look_through("notes.txt", content)
    assert "an archive of a kind that is not read here" in [reader.what for reader in by]
    assert look.missed
