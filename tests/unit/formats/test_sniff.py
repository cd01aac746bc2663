"""What a file is to those who use it: inert only where that is so to its last byte, and under every reading of it."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelguard import kind_of, png

PNG = png(np.zeros((3, 4, 4), np.uint8))
JPEG = (
    b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0"
    b"\xff\xda\0\x08\1\1\0\0\x3f\0\x12\xff\0\x34\xff\xd0\x56\xff\xd9"
)
GIF = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff\x21\xfe\5words\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"
WAV = b"RIFF" + struct.pack("<L", 44) + b"WAVEfmt " + struct.pack("<L", 16) + bytes(16) + b"data" + struct.pack("<L", 8) + bytes(range(8))
OGG = b"OggS\0\2" + bytes(20) + b"\1\5hello"
MP4 = struct.pack(">L", 16) + b"ftypisom\0\0\0\1" + struct.pack(">L", 12) + b"mdat" + b"\xff\0\xff\0"
PDF = b"%PDF-1.4\n%\xe2\xe3\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
PARQUET = b"PAR1" + bytes(range(200, 220)) + struct.pack("<L", 12) + b"PAR1"
ARROW = b"ARROW1\0\0" + bytes(range(200, 232)) + struct.pack("<L", 16) + b"ARROW1"
FLAC = b"fLaC\x80\0\0\2ab\xff\xf8" + bytes(range(200, 220))
MP3 = b"ID3\4\0\0\0\0\0\2ab\xff\xfb" + bytes(range(200, 220))
BMP = b"BM" + struct.pack("<LLL", 58, 0, 54) + struct.pack("<L", 40) + bytes(36) + b"\xff\xfe\xfd\xfc"
ICO = b"\0\0\1\0\1\0" + bytes([16, 16, 0, 0, 1, 0, 32, 0]) + struct.pack("<LL", 4, 22) + b"\xff\xfe\xfd\xfc"
PIECES = b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02" + b"\x12\3abc"

WHOLE = {
    "a.png": PNG,
    "a.jpg": JPEG,
    "a.gif": GIF,
    "a.webp": b"RIFF" + struct.pack("<L", 18) + b"WEBPVP8 " + struct.pack("<L", 6) + b"\xff\xfe\xfd\xfc\xfb\xfa",
    "a.wav": WAV,
    "a.ogg": OGG,
    "a.mp4": MP4,
    "a.pdf": PDF,
    "a.parquet": PARQUET,
    "a.arrow": ARROW,
    "a.flac": FLAC,
    "a.mp3": MP3,
    "a.bmp": BMP,
    "a.ico": ICO,
    "a.model": PIECES,
}
CALL = b"cbuiltins\nprint\n(S'x'\ntR."


def matter(name: str, data: bytes) -> str:
    return kind_of(name, memoryview(data)).matter


def with_superblock() -> bytes:
    """A whole picture with a chunk of text in which, at byte 512, an HDF5 file begins."""
    text = bytes(512 - len(PNG) + 4) + b"\x89HDF\r\n\x1a\n" + bytes(84)
    return PNG[:-12] + struct.pack(">L", len(text)) + b"teXt" + text + bytes(4) + PNG[-12:]


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("__main__.py", "print('x')")
    return made.getvalue()


def tarred(name: str = "a.txt") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return made.getvalue()


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_inert(name: str) -> None:
    assert matter(name, WHOLE[name]) == "inert"
    assert matter(name, WHOLE[name] + bytes(7)) == "inert" or name in ("a.parquet", "a.arrow", "a.model"), "padding"


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_cut_off_or_goes_on_is_not(name: str) -> None:
    whole = WHOLE[name]
    assert matter(name, whole[:-2]) != "inert" or name in ("a.flac", "a.mp3", "a.pdf")
    assert matter(name, whole[:10]) != "inert" or name == "a.model", "so few bytes of it are text"
    assert matter(name, whole + bytes(range(128, 256))) != "inert" or name in ("a.flac", "a.mp3", "a.pdf")


def test_where_the_rest_begins_is_told() -> None:
    assert kind_of("a.png", memoryview(PNG + bytes(range(128, 256)))).end == len(PNG)
    assert kind_of("a.png", memoryview(PNG)).end == 0


@pytest.mark.parametrize("after", [b"made with an editor\n", JPEG, PNG + GIF])
def test_a_picture_with_another_or_with_words_behind_is_inert(after: bytes) -> None:
    """Cameras keep a preview behind the picture (CIPA DC-007), editors a note."""
    assert matter("a.jpg", JPEG + after) == "inert"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("logo.gif", b"GIF89a" + CALL),
        ("logo.png", PNG + pickle.dumps([1])),
        ("data.parquet", b"PAR1" + pickle.dumps([1])),
        ("page.html", b"<html>\n" + bytes(range(128, 256))),
        ("logo.png", PNG + zipped()),
        ("paper.pdf", PDF + zipped()),
        ("paper.pdf", PDF + zipped() + b"%%EOF"),
        ("logo.png", with_superblock()),
        ("song.wav", tarred("RIFF")),
        ("vocab.json", b"(lp0\nI1\naI2\na."),
        ("notes.txt", b"\xff\xfe" + bytes(range(256))),
    ],
)
def test_two_kinds_at_once_are_not_inert(name: str, data: bytes) -> None:
    assert matter(name, data) != "inert"


# Issue of every scanner that goes by endings: what looks like an ordinary repository runs when it is installed, built, opened or served.
RUN = {
    "Makefile": b"all:\n\ttouch x\n",
    "Dockerfile": b"FROM python\nRUN true\n",
    "docker/Dockerfile.gpu": b"FROM python\n",
    "Jenkinsfile": b"pipeline {}\n",
    "index.php": b"<?php system('id'); ?>",
    "run.bat": b"@echo off\r\n",
    "start": b"@echo off\r\ncalc\r\n",
    "run.pl": b"print 1;\n",
    "run.lua": b"print(1)\n",
    "tool.rb": b"puts 1\n",
    "x.ps1": b"Write-Host 1\n",
    "install": b"#!/usr/bin/env perl\n",
    "with-mark": b"\xef\xbb\xbf#!/bin/sh\n",
    "conftest.py": b"import os\n",
    "sitecustomize.py": b"import os\n",
    ".npmrc": b"registry=https://example.org\n",
    ".envrc": b"export A=1\n",
    ".github/workflows/ci.yml": b"on: push\n",
    ".pre-commit-config.yaml": b"repos: []\n",
    ".vscode/tasks.json": b"{}\n",
    "Model.desktop": b"[Desktop Entry]\nExec=sh\n",
    "entry": b"[Desktop Entry]\nExec=sh\n",
    "site.url": b"[InternetShortcut]\nURL=file://x\n",
    "logo.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "event.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "page.html": b"<!doctype html><p>hello</p><script src=x></script>",
    "README.md.html": b"<html><body onclick='x()'></body></html>",
    "extra.pth": b"import os; os.system('id')\n",
    "requirements.txt": b"torch\n--extra-index-url https://example.org/simple\n",
    "requirements-dev.txt": b"-i https://example.org/simple\n",
    "requirements/base.txt": b"evil @ git+https://example.org/evil\n",
    "constraints.txt": b"evil @ https://example.org/evil.whl\n",
    "requirements.in": b"-e .\n",
    "environment.yml": b"dependencies:\n- pip:\n  - git+https://example.org/evil\n",
    "pyproject.toml": b"[build-system]\nbackend-path = ['.']\n",
    "setup.cfg": b"[options]\ncmdclass =\n  install = evil.Install\n",
    "package.json": b'{"scripts": {"postinstall": "node x"}}',
}


@pytest.mark.parametrize("name", RUN)
def test_what_runs_is_code(name: str) -> None:
    assert matter(name, RUN[name]) == "code"


# LightGBM, XGBoost and PMML models are text, and models: a gate that has not read them has not looked at the weights.
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.txt", b"tree\nversion=v4\nnum_class=1\n"),
        ("model.json", b'{"learner":{"attributes":{},"gradient_booster":{"model":{}}},"version":[2,0,0]}'),
        ("cat.json", b'{"oblivious_trees": []}'),
        ("model.ubj", b"{L\0\0\0\0\0\0\0\x07learner{"),
        ("model.xml", b"<?xml version='1.0'?>\n<PMML version='4.4'></PMML>"),
        ("net.xml", b"<?xml version='1.0'?>\n<net name='a' version='11'>\n<layers></layers></net>"),
        ("weights.h5", b"some text"),
    ],
)
def test_models_in_text_are_weights(name: str, data: bytes) -> None:
    assert matter(name, data) == "weights"


READ = {
    "README.md": b"# Model\n\nRun `#!/bin/sh` scripts, <script> tags and `git+https://x`.\n",
    "LICENSE": b"Apache License\n",
    "notes": b"Use make, docker and php.\n",
    "requirements.txt": b"# see https://example.org\ntorch>=2  # https://pytorch.org\n-r base.txt\nnumpy==1.26; python_version > '3.9'\n",
    "environment.yml": b"channels: [conda-forge]\ndependencies:\n- numpy\n- pip:\n  - torch\n",
    "pyproject.toml": b"[build-system]\nrequires = ['setuptools']\n[project]\nurls = {home = 'https://example.org'}\n",
    "setup.cfg": b"[flake8]\nmax-line-length = 100\n",
    "package.json": b'{"name": "x", "scripts": {"test": "true"}}',
    "config.json": b'{"learner": 1, "architectures": ["Bert"]}',
    "model.txt": b"tree of life\nversion=v4\n",
    "logo.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><path d='M0 0'/></svg>",
    "page.html": b"<!doctype html><p>hello</p>",
    "data.xml": b"<?xml version='1.0'?><a one='1'>script</a>",
    "tokenizer.json": '{"model": {"vocab": {"Ġthe": 0, "<script": 1, "#!/": 2}}}'.encode(),
    "merges.txt": "#version: 0.2\nĠ t\n".encode(),
    "vocab.bpe": b"#! is the first pair\n"[1:],
    "data.jsonl": b'{"a": 1}\n{"a": 2}\n',
    "utf16.txt": "some words".encode("utf-16"),
    "logs.txt": b"\x1b[1mbold\x1b[0m\n",
    ".gitattributes": b"*.bin filter=lfs\n",
    "model.onnx.md": b"%PDF- and %%EOF are its marks\n",
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_inert(name: str) -> None:
    assert matter(name, READ[name]) == "inert"


def test_an_archive_whose_header_is_all_words_is_one() -> None:
    block = bytearray(b" " * 512)
    block[:5] = b"a.txt"
    block[124:136] = b"00000000000 "
    block[257:265] = b"ustar  \0"[:7] + b" "
    block[148:156] = b"%06o  " % (sum(block))
    assert matter("notes.txt", bytes(block) + b" " * 1024) == "archive"


@given(st.sampled_from([*WHOLE]), st.data())
@settings(max_examples=200, deadline=None)
def test_damage_ends_in_an_answer(name: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert kind_of(name, memoryview(content)).what
