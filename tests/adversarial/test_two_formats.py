"""A checkpoint that another kind of loader opens as well is blocked, wherever in the file that loader looks."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelguard._formats.readings import other_readings
from modelguard.testing.checkpoints import open_target, safetensors_bytes, write_onnx_mlp

HDF5 = b"\x89HDF\r\n\x1a\n"


def also(folder: Path, name: str, data: bytes) -> list[str]:
    """What the file is said to be besides a checkpoint."""
    (folder / name).write_bytes(data)
    target = open_target(folder)
    assert target.checkpoints, "it opens as a checkpoint"
    return [str(item.evidence["also"]) for item in target.problems if item.rule == "MG0111"]


def tensor(data: bytes, **metadata: str) -> bytes:
    entry = {"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    return safetensors_bytes({**({"__metadata__": metadata} if metadata else {}), **entry}, data)


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as written:
        written.writestr("__main__.py", "print('x')")
    return made.getvalue()


def at(place: int, data: bytes, size: int = 5000) -> bytes:
    """A checkpoint of one tensor in which ``data`` lies at byte ``place`` of the file."""
    begin = len(tensor(bytes(size))) - size
    return tensor(bytes(place - begin) + data + bytes(size - (place - begin) - len(data)))


# HDF5 file format 3.0, II.A: the superblock lies at byte 0, 512, 1024, 2048 and so on. h5py and Keras open such a file.
@pytest.mark.parametrize("place", [512, 1024, 4096])
def test_an_hdf5_file_behind_a_user_block(tmp_path: Path, place: int) -> None:
    assert also(tmp_path, "model.safetensors", at(place, HDF5)) == ["an HDF5 file"]


def test_the_mark_of_hdf5_elsewhere_is_data(tmp_path: Path) -> None:
    assert also(tmp_path, "model.safetensors", at(1000, HDF5)) == []


def test_a_tar_archive_over_a_checkpoint(tmp_path: Path) -> None:
    # ustar, POSIX.1-1988: the mark is at 257; tarfile goes by a checksum over the first 512 bytes.
    body = b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"__metadata__":{"a":"'
    body = body.ljust(249, b"x") + b"ustar" + b"x" * 300 + b'"}}'
    content = len(body).to_bytes(8, "little") + body
    assert content[257:262] == b"ustar"
    assert also(tmp_path, "model.safetensors", content) == ["a tar archive"]


def test_an_old_tar_archive_is_known_by_its_checksum(tmp_path: Path) -> None:
    body = b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"__metadata__":{"a":"'
    body = body.ljust(140, b"x") + b"        " + b"x" * (600 - 148 - 3) + b'"}}'
    size = len(body).to_bytes(8, "little")
    total = sum((size + body)[:512])
    content = size + body[:140] + b"%07o " % total + body[148:]
    assert also(tmp_path, "model.safetensors", content) == ["a tar archive"]
    assert also(tmp_path, "model.safetensors", content.replace(b"%07o " % total, b"%07o " % (total + 1))) == []


def test_a_document_over_a_checkpoint(tmp_path: Path) -> None:
    # ISO 32000-1, annex H: viewers look for the mark in the first 1024 bytes.
    assert also(tmp_path, "model.safetensors", tensor(bytes(2000) + b"%%EOF", note="%PDF-1.4")) == ["a PDF document"]
    assert also(tmp_path, "model.safetensors", tensor(bytes(2000), note="made from %PDF-1.4")) == []


def test_a_windows_program_over_a_checkpoint() -> None:
    """A header of 0x5A4D bytes makes a safetensors file begin with MZ; the program's own header lies where bytes 60 to 63 lead."""
    start = (0x5A4D).to_bytes(8, "little") + b"{" + b" " * 51
    for mark, expected in ((b"PE\0\0", ["a Windows program"]), (b"QE\0\0", [])):
        assert list(other_readings(memoryview(start + (64).to_bytes(4, "little") + mark + bytes(200)))) == expected


def test_a_header_that_begins_like_a_script_is_a_length(tmp_path: Path) -> None:
    body = b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'.ljust(0x2123)
    assert also(tmp_path, "model.safetensors", len(body).to_bytes(8, "little") + body) == []
    assert (tmp_path / "model.safetensors").read_bytes().startswith(b"#!")


@pytest.mark.parametrize("place", ["doc_string", "metadata", "initializer"])
def test_an_archive_in_an_onnx_file(tmp_path: Path, place: str) -> None:
    """Where a protobuf field of text or bytes lies last, zipfile and ``python FILE`` find the archive in it."""
    proto = onnx.load(str(write_onnx_mlp(tmp_path / "model.onnx")))
    plain = proto.SerializeToString()
    assert also(tmp_path, "model.onnx", plain) == []
    hidden = archive()
    if place == "initializer":
        value = proto.graph.initializer.add()
        value.CopyFrom(onnx.numpy_helper.from_array(np.frombuffer(hidden, np.uint8), "hidden"))
        content = proto.SerializeToString()
    else:
        # doc_string is field 6 of a model, metadata_props field 14; a serialiser may write them last.
        tag = b"\x32" if place == "doc_string" else b"\x72"
        text = hidden if place == "doc_string" else b"\x0a\1k\x12" + _length(len(hidden)) + hidden
        content = plain + tag + _length(len(text)) + text
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert zipfile.ZipFile(path).namelist() == ["__main__.py"]
    found = [str(item.evidence.get("also")) for item in open_target(tmp_path).problems if item.rule == "MG0111"]
    assert found == ["a zip archive"]


def test_several_readings_are_named_in_one_finding(tmp_path: Path) -> None:
    content = at(512, HDF5, 5000)
    begin = len(content) - 5000
    body = content[begin:-300] + bytes(300 - len(archive())) + archive()
    assert also(tmp_path, "model.safetensors", tensor(body)) == ["a zip archive and an HDF5 file"]


def test_ordinary_checkpoints_are_one_thing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 20)
    assert also(tmp_path, "model.safetensors", tensor(noise, format="pt")) == []


def _length(size: int) -> bytes:
    return bytes([size & 0x7F | 0x80, size >> 7]) if size >> 7 else bytes([size])
