"""Zip archives: every reading is looked at, and what readers disagree on is told."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization import limits
from modelguard_serialization._zip import contents, read_directory
from modelguard_serialization.reader import Look, NotReadError
from modelguard_serialization.testing import look_through

from modelguard import Severity

TEXT = b"words, and nothing else\n"
PICKLE = b"\x80\x02cbuiltins\nprint\nq\x00X\x01\x00\x00\x00xq\x01\x85q\x02Rq\x03."


@dataclass(frozen=True)
class Part:
    """A member as it is written by hand. What begins with ``local`` is what its own header says instead of the directory."""

    name: bytes = b"a.txt"
    data: bytes = TEXT
    method: int = 0
    flags: int = 0
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    local_size: int | None = None
    crc: int | None = None
    size: int | None = None
    extra: bytes = b""
    attributes: int = 0
    listed: bool = True
    after: bytes = b""

    @property
    def packed(self) -> bytes:
        if self.method != 8:
            return self.data
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        return squeeze.compress(self.data) + squeeze.flush()


def written(*parts: Part, before: bytes = b"", comment: bytes = b"", after: bytes = b"", count: int | None = None, shift: int = 0) -> bytes:
    body, entries = bytearray(before), bytearray()
    for part in parts:
        packed = part.packed
        crc = zlib.crc32(part.data) if part.crc is None else part.crc
        size = len(part.data) if part.size is None else part.size
        offset = len(body) - shift
        own_name = part.name if part.local_name is None else part.local_name
        own_method = part.method if part.local_method is None else part.local_method
        own_flags = part.flags if part.local_flags is None else part.local_flags
        own_size = size if part.local_size is None else part.local_size
        own_packed = len(packed) if part.local_size is None else part.local_size
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, own_flags, own_method, 0, 33, crc, own_packed, own_size, len(own_name), 0)
        body += own_name + packed + part.after
        if part.listed:
            fields = (20, 20, part.flags, part.method, 0, 33, crc, len(packed), size, len(part.name), len(part.extra))
            entries += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields, 0, 0, 0, part.attributes, offset) + part.name + part.extra
    start = len(body) - shift
    listed = sum(part.listed for part in parts) if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, listed, listed, len(entries), start, len(comment))
    return bytes(body + entries + end + comment + after)


def rules(look: Look) -> set[str]:
    return {item.rule for item in look.findings}


def seen(look: Look, data: bytes) -> bool:
    """Whether the pickle was handed on: no reader but that of pickles knows it, and where there is none it is missed."""
    return bool(look.missed) or any(item.rule.startswith("MG031") for item in look.findings)


def test_an_archive_as_it_should_be_has_nothing_to_tell() -> None:
    look, by = look_through("a.zip", written(Part(), Part(name=b"b/c.txt", method=8), comment=b"a comment"))
    assert (look.findings, look.missed) == ([], [])
    assert [reader.what for reader in by] == ["a zip archive"]


# CVE-2025-1944 (https://nvd.nist.gov/vuln/detail/CVE-2025-1944): names differ between directory and header.
# CVE-2025-1945 (https://nvd.nist.gov/vuln/detail/CVE-2025-1945): flag bits that scanners heed and PyTorch does not.
# CVE-2025-10156 (https://nvd.nist.gov/vuln/detail/CVE-2025-10156): a wrong checksum stops scanners and not PyTorch.
TRICKS = {
    "another name in the header": written(Part(name=b"data.txt", local_name=b"data.json")),
    "another compression in the header": written(Part(local_method=8)),
    "another size in the header": written(Part(local_size=3)),
    "encrypted by one header": written(Part(local_flags=1)),
    "encrypted by its flag alone": written(Part(flags=1)),
    "a size that is not so": written(Part(method=8, size=3, local_size=3)),
    "a member that is not listed": written(Part(), Part(name=b"hidden.txt", listed=False)),
    "two members of one name": written(Part(), Part(data=b"other words\n")),
    "a name with a null": written(Part(name=b"a.txt\0.png", local_name=b"a.txt\0.png")),
    "a folder with content": written(Part(name=b"folder/")),
    "bytes between members": written(Part(after=b"some words"), Part(name=b"b.txt")),
    "bytes after the end": written(Part(), after=b"some words"),
    "more members than there are": written(Part(), count=2),
    "fewer members than there are": written(Part(), Part(name=b"b.txt"), count=1),
    "a sum after the data that is another": written(Part(flags=8, after=b"PK\7\x08" + bytes(12))),
    "another name in the Unicode field": written(Part(extra=struct.pack("<HHBL", 0x7075, 5 + 10, 1, zlib.crc32(b"a.txt")) + b"other.json")),
    "no directory": written(Part())[: 30 + 5 + len(TEXT)],
    "two end records": written(Part()) + written(Part(data=b"other words\n")),
}


@pytest.mark.parametrize("kind", TRICKS)
def test_what_readers_disagree_on_is_told(kind: str) -> None:
    look, _ = look_through("a.zip", TRICKS[kind])
    assert rules(look) & {"MG0320", "MG0323"}
    assert any(item.severity is None or item.severity >= Severity.HIGH for item in look.findings)
    assert all("a.txt' is cut" in item or "a.txt' cannot" in item for item in look.missed), "all that can be read of it is text"


@pytest.mark.parametrize(
    "content",
    [
        written(Part(), after=bytes(4)),
        written(Part(flags=8, after=b"PK\7\x08" + struct.pack("<3L", zlib.crc32(TEXT), len(TEXT), len(TEXT)), local_size=0)),
        written(Part(), Part()),
        written(Part(name="größe.txt".encode(), flags=0x800)),
        written(Part(name=b"A.txt"), Part(name=b"a.txt", data=b"other\n")),
        written(Part(name=b"a\x81.txt", extra=struct.pack("<HHBL", 0x7075, 5 + 7, 1, zlib.crc32(b"a\x81.txt")) + "aü.txt".encode())),
        written(Part(name=b"inner.zip", data=written(Part()))),
        written(Part(after=bytes(100)), Part(name=b"b.txt")),
        written(Part(name=b"folder/", data=b"")),
    ],
    ids=["zeros behind", "descriptor", "same twice", "unicode", "case", "unicode field", "an archive inside", "padding", "folder"],
)
def test_what_ordinary_tools_write_is_no_trick(content: bytes) -> None:
    look, _ = look_through("a.zip", content)
    assert all(item.severity is Severity.LOW for item in look.findings)
    assert not look.missed


@pytest.mark.parametrize(
    "content",
    [
        written(Part(name=b"a.txt", local_name=b"data.pkl", data=PICKLE)),
        written(Part(flags=1, data=PICKLE)),
        written(Part(crc=1, data=PICKLE)),
        written(Part(), Part(name=b"b", data=PICKLE, listed=False)),
        written(Part(), Part(data=PICKLE)),
        written(Part(after=PICKLE), Part(name=b"b.txt")),
        written(Part(), after=PICKLE),
        written(Part(), comment=PICKLE),
        written(Part(name=b"x.zip", data=written(Part(data=PICKLE, method=8)))),
        written(Part(data=PICKLE), before=b"MZ" + bytes(62), shift=64),
        written(Part(data=PICKLE, method=8))[:-40],
    ],
)
def test_a_pickle_is_handed_on_wherever_it_lies(content: bytes) -> None:
    look, _ = look_through("a.zip", content)
    assert seen(look, PICKLE)


def test_a_wrong_checksum_is_told_and_the_content_looked_at() -> None:
    look, _ = look_through("a.zip", written(Part(crc=7)))
    assert [(item.rule, item.severity) for item in look.findings] == [("MG0320", Severity.MEDIUM)]
    assert not look.missed


# Zip Slip (CWE-22, https://github.com/snyk/zip-slip-vulnerability).
@pytest.mark.parametrize(
    "part",
    [
        Part(name=b"../../.bashrc.txt"),
        Part(name=b"/etc/cron.d/x.txt"),
        Part(name=b"..\\x.txt"),
        Part(name=b"C:x.txt"),
        Part(name=b"a/../../x.txt"),
        Part(name=b"link", data=b"/etc/passwd", attributes=0xA1FF << 16),
        Part(name=b"a/link", data=b"../../x", attributes=0xA1FF << 16),
    ],
)
def test_names_and_links_that_lead_out_are_told(part: Part) -> None:
    look, _ = look_through("a.zip", written(part))
    assert "MG0321" in rules(look)


@pytest.mark.parametrize("part", [Part(name=b"a..b/...txt"), Part(name=b"a/link", data=b"../b.txt", attributes=0xA1FF << 16)])
def test_names_and_links_that_stay_inside_are_not(part: Part) -> None:
    look, _ = look_through("a.zip", written(part))
    assert not look.findings


# https://www.bamsoftware.com/hacks/zipbomb/: members that overlap.
def test_overlapping_members_are_told() -> None:
    content = bytearray(written(Part(), Part(name=b"b.txt")))
    second = content.rfind(b"PK\1\2")
    content[second + 42 : second + 46] = bytes(4)
    look, _ = look_through("a.zip", bytes(content))
    assert any("overlap" in item.message for item in look.findings)


def test_a_bomb_is_told_and_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNPACKED", 1 << 16)
    look, _ = look_through("a.zip", written(Part(data=bytes(1 << 20), method=8)))
    assert rules(look) == {"MG0322"}
    assert look.missed
    look, _ = look_through("a.zip", written(Part(data=bytes(1 << 20), method=8, size=10)))
    assert rules(look) == {"MG0320", "MG0322"}, "whatever size it says"
    noise = np.random.default_rng(0).bytes(1 << 17)
    look, _ = look_through("a.zip", written(Part(data=noise, method=8)))
    assert not look.findings, "past the limit, and no more than it is"
    assert look.missed


def test_zeros_that_were_packed_are_no_bomb() -> None:
    made = io.BytesIO()
    np.savez_compressed(made, a=np.zeros(1 << 20))
    look, _ = look_through("a.npz", made.getvalue())
    assert not look.findings


def test_archives_in_archives_have_an_end() -> None:
    content = written(Part())
    for _ in range(limits.DEPTH + 2):
        content = written(Part(name=b"in.zip", data=content))
    look, _ = look_through("a.zip", content)
    assert "MG0322" in rules(look)
    assert look.missed


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_those_of_zipfile(method: int) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("a/", b"")
        archive.writestr("a/b.txt", TEXT * 100)
        archive.writestr("ü.txt", TEXT)
        with archive.open("c.txt", "w", force_zip64=True) as handle:
            handle.write(TEXT)
    content = memoryview(made.getvalue())
    directory = read_directory(content)
    with zipfile.ZipFile(made) as archive:
        assert [item.name for item in directory.members] == archive.namelist()
        for member in directory.members:
            assert bytes(contents(content, member, 1 << 20)) == archive.read(member.name)
    assert not directory.problems
    look, _ = look_through("a.zip", made.getvalue())
    assert (look.findings, look.missed) == ([], [])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_ends_in_an_answer(data: st.DataObject) -> None:
    content = bytearray(written(Part(), Part(name=b"b.txt", method=8, flags=8), comment=b"words"))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        directory = read_directory(memoryview(content))
    except NotReadError:
        return
    for member in directory.members:
        try:
            contents(memoryview(content), member, 1 << 16)
        except NotReadError:
            continue


# torch files.


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def saved() -> bytes:
    made = io.BytesIO()
    torch.save({"w": torch.arange(100_000.0)}, made)
    return made.getvalue()


def test_the_bytes_of_tensors_are_not_read() -> None:
    content = saved()
    look, by = look_through("model.pt", content)
    assert by[0].what == "a torch file"
    assert not look.findings
    assert not any("/data/0" in item for item in look.missed)
    # The same bytes under a name that the layout has no tensors under go on.
    look, _ = look_through("model.pt", content.replace(b"archive/data/0", b"archive/datb/0"))
    assert any("/datb/0" in item for item in look.missed)


def test_storages_count_as_such_only_where_all_readers_see_them() -> None:
    content = bytearray(saved())
    at = content.find(b"archive/data/0")
    content[at : at + 14] = b"archive/data/1"
    look, _ = look_through("model.pt", bytes(content))
    assert "MG0320" in rules(look)
    assert any("/data/" in item for item in look.missed)


# PyTorch finds members without regard to case (caffe2/serialize/inline_container.cc, mz_zip_reader_locate_file without flags).
def test_names_that_torch_takes_for_one_are_told() -> None:
    parts = [Part(name=b"archive/data.pkl"), Part(name=b"archive/DATA.pkl", data=b"other\n")]
    look, _ = look_through("model.pt", written(*parts))
    assert [item.severity for item in look.findings if item.key.startswith("case")] == [Severity.HIGH]


def test_torch_files_without_checksums_are_no_trick() -> None:
    parts = [Part(name=b"archive/data.pkl"), Part(name=b"archive/version", data=b"3\n", crc=9)]
    look, _ = look_through("model.pt", written(*parts))
    assert [item.severity for item in look.findings] == [Severity.LOW]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_script_archives_are_opened() -> None:
    made = io.BytesIO()
    torch.jit.save(torch.jit.script(Halves()), made)
    look, by = look_through("model.pt", made.getvalue())
    assert by[0].what == "a torch file"
    assert not [item for item in look.findings if item.rule.startswith("MG032")]


def wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/__init__.py", "VALUE = 1\n")
        archive.writestr("pkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
        archive.writestr("pkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("pkg-1.0.dist-info/RECORD", "pkg/__init__.py,,\n")
    return made.getvalue()


def arrays(compressed: bool) -> bytes:
    made = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(made, a=np.arange(10.0), b=np.ones((2, 3), np.uint8))
    return made.getvalue()


ORDINARY = {"model.pt": saved, "a.npz": lambda: arrays(False), "b.npz": lambda: arrays(True), "pkg-1.0-py3-none-any.whl": wheel}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_libraries_save_raises_no_alarm(name: str) -> None:
    look, _ = look_through(name, ORDINARY[name]())
    assert [item for item in look.findings if item.severity is None or item.severity >= Severity.MEDIUM] == []
    assert not look.missed


# Two kinds at once.


def test_an_archive_behind_something_else_is_told() -> None:
    look, _ = look_through("model.bin", written(Part(), before=b"\x89PNG something", shift=0))
    assert "MG0323" in rules(look)
    look, _ = look_through("app", written(Part(), before=b"#!/usr/bin/env python3\n"))
    assert "MG0323" not in rules(look), "a Python application: its first line is read as a script"


def test_what_is_in_an_application_is_looked_at() -> None:
    look, _ = look_through("llamafile", written(Part(name=b"x", data=PICKLE), before=b"\x7fELF" + bytes(100), shift=104))
    assert seen(look, PICKLE)


def test_a_bad_member_keeps_no_other_from_being_looked_at() -> None:
    # https://github.com/protectai/modelscan/issues/354: one broken entry ended the scan, without a finding.
    content = written(Part(name=b"broken.txt", method=8), Part(name=b"data.pkl", data=PICKLE))
    content = content.replace(Part(method=8).packed, b"\xff" * len(Part(method=8).packed))
    look, _ = look_through("a.zip", content)
    assert any("broken.txt" in item for item in look.missed)
    assert any("data.pkl" in item for item in look.missed) or seen(look, PICKLE)
