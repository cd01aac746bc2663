"""What nobody runs is recognised, and nothing else is."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from modelguard_serialization.testing import look_through

import modelguard
from modelguard import png

PNG = png(np.zeros((3, 4, 4), np.uint8))
PLAIN = "text, a picture, a recording, a document or a table"
UNKNOWN = bytes(range(128, 256))


def test_a_file_is_said_to_be_the_kind_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Model\n")
    (tmp_path / "logo.png").write_bytes(PNG)
    report = modelguard.scan(tmp_path)
    assert {item.path: item.what for item in report.target.files} == {"README.md": "text", "logo.png": "a PNG image"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("README.md", b"# Model\n"),
        ("logo.png", PNG),
        ("tokenizer.json", b'{"model": {}}'),
        ("merges.txt", "#version: 0.2\nĠ t\n".encode()),
        ("version", b"3\n"),
    ],
)
def test_plain_content_has_nothing_to_tell(name: str, data: bytes) -> None:
    look, by = look_through(name, data)
    assert by[-1].what == PLAIN
    assert (look.findings, look.missed) == ([], [])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("logo.gif", b"GIF89a" + pickle.dumps([1], 0)),
        ("page.html", b"<html>" + UNKNOWN),
        ("data.parquet", b"PAR1" + UNKNOWN),
        ("Makefile", b"all:\n\ttouch x\n"),
        ("install.sh", b"#!/bin/sh\n"),
        ("requirements.txt", b"--index-url https://example.org\n"),
        ("vocab.json", b"cbuiltins\nprint\n(S'x'\ntR."),
    ],
)
def test_what_only_looks_plain_is_left_to_others(name: str, data: bytes) -> None:
    _, by = look_through(name, data)
    assert PLAIN not in [reader.what for reader in by]


def test_what_lies_behind_a_picture_goes_on() -> None:
    look, _ = look_through("logo.png", PNG + UNKNOWN)
    assert [item.rule for item in look.findings] == ["MG0323"]
    assert look.missed == ["logo.png!(after): is of no kind that is known"]
    look, _ = look_through("logo.png", PNG + PNG)
    assert (look.findings, look.missed) == ([], [])


def test_an_archive_behind_a_picture_is_told_and_opened() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.bin", UNKNOWN)
    look, _ = look_through("logo.png", PNG + made.getvalue())
    assert "MG0323" in [item.rule for item in look.findings]
    assert any("a.bin" in item for item in look.missed)


@pytest.mark.parametrize(("name", "data"), [("model.txt", b"tree\nversion=v4\n"), ("model.json", b'{"learner":{"gradient_booster":{}}}')])
def test_models_in_text_are_read(name: str, data: bytes) -> None:
    look, by = look_through(name, data)
    assert "text-model" in [reader.format for reader in by]
    assert (look.findings, look.missed) == ([], [])


def test_safetensors_in_an_archive_are_read() -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    good = len(header).to_bytes(8, "little") + header + b"\xff\xfe\xfd\xfc"
    for content, missed in ((good, False), (good + b"\xff", True)):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("a.safetensors", content)
        look, _ = look_through("a.zip", made.getvalue())
        assert bool(look.missed) == missed
