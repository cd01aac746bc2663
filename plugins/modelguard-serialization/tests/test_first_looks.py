"""The first look never keeps a reader from a file that it would recognise. (``conftest.py`` holds all other tests' files to this too.)"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from modelguard_serialization import _file_names as names
from modelguard_serialization._readers._table import ENTRIES, asked, every, recognising
from modelguard_serialization.blob import Blob
from modelguard_serialization.detector import RULES
from modelguard_serialization.testing import asking_all

sys.path.append(str(Path(__file__).parents[3] / "fuzz"))
from fuzz_seeds import seeds

ELF = struct.pack("<4s4B8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 3, 62, 1, 0x1000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
GIF = b"GIF89a\x01\0\x01\0\0\0\0!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
ENDINGS = sorted({"", ".bin", ".pt", ".pth", ".py\n", *(ending for entry in ENTRIES for ending in entry.endings), *names.NOT_TEMPLATES})
EXAMPLES: tuple[tuple[str, bytes], ...] = (
    ("m.onnx", b"x"), ("m", b"\x08\x08\x3a\x02\x0a\x00"), ("m", b"GGUF"), ("m", b"\x80\x04."), ("m", b"\x80\x02}q\0."), ("m", b"N."),
    ("m", b"I1\n."), ("m.pth", b"cos\nsystem\n(S'ls'\ntR."), ("m.pt", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."),
    ("m.pt", b"L119547037146038801333356L\n."), ("m", b"\x93NUMPY\1\0"), ("m", b"PK\x05\x06" + bytes(18)),
    ("m", b"PK\x03\x04" + bytes(26)), ("m.pt", b"PK\x03\x04" + bytes(22) + b"\x0a\0\0\0a/data.pkl"),
    ("m", bytes(257) + b"ustar" + bytes(250)), ("m.json.gz", b"\x1f\x8b\x08"), ("m", b"BZh91AY&SY"),
    ("m", b"BZh9\x17\x72\x45\x38\x50\x90"), ("m", b"\xfd7zXZ\0"), ("m", b"\x5d\0\0\x80\0" + b"\xff" * 8 + bytes(9)),
    ("m", b"\x28\xb5\x2f\xfd"), ("m", b"\x53\x2a\x4d\x18"), ("m", zlib.compress(b"hello" * 9)), ("m", zlib.compress(b"hello", 1)),
    ("m", b"ZF0x19"), ("m", b"7z\xbc\xaf\x27\x1c"), ("m", b"Rar!\x1a\x07"), ("m", b"\xc7\x71\xff"), ("m", b"\x20\xff-lh5-"),
    ("m", b"\x60\xea\xff\xff\x20"), ("m", b"\x1f\x9d\x90"), ("m", b"070701"), ("m", bytes(0x8001) + b"CD001"),
    ("m", bytes(0x9001) + b"CD001"), ("m.h5", b"\x89HDF\r\n\x1a\n"), ("m", bytes(1024) + b"\x89HDF\r\n\x1a\n"), ("saved_model.pb", b"x"),
    ("m", b"\x08\x01\x12\x04\x0a\x02\x0a\x00"), ("m", b"\x0a\x08\x0a\x01a\x12\x03Abc"), ("m", b"\x8a\x00\x08\x0a\x01a\x12\x03Abc"),
    ("g.meta", b"\x12\x00"), ("g.pbtxt", b"node { op: 'Add' }"), ("keras_metadata.pb", b"x"), ("s.pb", b"_tf_keras_layer"),
    ("fingerprint.pb", b"\x08\x01"), ("v.index", b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"), ("v.data-00000-of-00001", b"x"),
    ("events.out.tfevents.1", bytes(20)), ("m", b"\x1c\0\0\0TFL3"), ("m.mlmodel", b"\x08\xff"), ("m", b"\x08\x04\x12\x00\xc2\x0c\x00"),
    ("m.pdmodel", b"x"), ("m.caffemodel", b"x"), ("m.prototxt", b"layer {"), ("m.xml", b" <net version='1'>"),
    ("m", b"\xef\xbb\xbf\n<PMML>"), ("m", b"ftrt"), ("m.plan", b"x"), ("m", b"\x02\0\0\0{}ftrt"),
    ("m.safetensors", b"\x02" + bytes(7) + b"{}"), ("schema.json", b'{"__class__": 1}'), ("m.msgpack", b"x"), ("a/code/b.py", b"x = 1"),
    ("a/code/b.py\n", b"x = 1"), ("m", b"CBM1\0\0\0\0"), ("m", b"{L\0\0\0\0\0\0\0\x07learner"), ("m", b"{i\x07version"), ("m", b"binf"),
    ("m", b"\x12\x01" + bytes(14)), ("m", b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"),
    ("m", b"\1\0\0\0\2\0\0\0" + bytes(56) + b"\xef\xbe\xad\xde"), ("m", b"7767517\n"), ("m.pdiparams", bytes(24)), ("m", b"\0\0\0\0ORTM"),
    ("m", b"\6\0\0\0\x10\0TransformerSpec\0"), ("m", b"\xba\x16\x4f\x2f"), ("m", b"mmap lm http://kheafield.com/code format version"),
    ("m.mnn", b"x"), ("m", b"\0\0\0\0ET12"), ("m", b"RKNN"), ("m", b"lmgg"), ("m", b"RDX3\nX\n\0\0\0\3"), ("m", b"A\n2\n"),
    ("m.txt", b"tree\nversion=v4\n"), ("m.json", b'{"learner_model_param": {}}'), ("m", ELF),
    ("m", b"MZ".ljust(60, b"\0") + b"\x40\0\0\0PE\0\0\x64\x86\1\0" + bytes(12) + bytes(2) + bytes(2) + b"\x0b\x02"),
    ("m", b"\xcf\xfa\xed\xfe\7\0\0\1" + bytes(4) + b"\2\0\0\0\1\0\0\0\x80\0\0\0" + bytes(8)), ("m", b"\0asm\1\0\0\0"),
    ("m", b"\xca\xfe\xba\xbe\0\0\0\2"), ("m", b"\xa7\x0d\r\n" + bytes(12) + b"\xe3"), ("m", b"\x03\xf3\r\n\0\0\0\0c"), ("m", b"\x1bLua"),
    ("m", b"!<arch>\n"), ("m.dll", b"x"), ("lib.so.1", b"x"), ("m", b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"),
    ("m.lnk", b"x"), ("m", b"\n[Desktop Entry]\n"), ("m", b"0" * 80 + ELF), ("m.py", b"x"), ("m", b"#!/usr/bin/env python\n"),
    ("m.pth", b"a\nimport os\n"), ("m", b'{"cells": [], "nbformat": 4}'), ("m.ipynb", b"x"), ("Makefile", b"x"), ("m.sh", b"x"),
    (".github/workflows/a.yml", b"x"), ("m", b"#!/bin/sh\n"), ("requirements-dev.txt", b"x"), ("requirements/a.txt", b"x"), ("m.js", b"x"),
    ("m", b"\n<?php"), ("m.run", b"#!/usr/bin/perl\n"), ("prompt.txt", b"x"), ("m", b"a {{ x }}"), ("m", b"{% y %}"), ("m", b'"\\u007b"'),
    ("m.cfg", b"[nlp]"), ("config.pbtxt", b"x"), ("Modelfile.q4", b"FROM x"), ("m", b"{"), ("m", b"[1"), ("m", b"\xef\xbb\xbf{"),
    ("m", b"\xff\xfe{\0}\0"), ("m", b"\xfe\xff\0{\0}"), ("m", b"{\0\0\0}\0\0\0"), ("m", b"\xc2\x85[1"), ("m", b"\xe2\x80\x83{}"),
    ("m", b"\xe1\x9a\x80{}"), ("m", b"\xe3\x80\x80[]"), ("m", b"\x1c{}"), ("m", b" " * 5000), ("m", bytes(5000)), ("m", b"---\n- a"),
    ("m", b"%YAML 1.2"), ("MLmodel", b"x"), ("m.toml", b"x"), ("m", b"token = hf_" + b"QwErTyUiOpAsDfGhJkLzXcVbNm90817263"),
    ("m.txt", b"words"), ("m.gif", GIF), ("m.gif", GIF + b"behind" + bytes(9)), ("m", b"PAR1" + bytes(8) + b"PAR1"),
    ("m", b"ARROW1" + bytes(10) + b"\1\0\0\0ARROW1"), (".vscode/tasks.json", b"x"), ("a/.devcontainer/run", b"x"),
)  # fmt: skip
"""Something that each reader recognises, in each of the ways in which it does."""
MARKS = tuple(sorted({data[:80] for _, data in EXAMPLES} | {b"PE\0\0", b"-lh5-", b"ustar", b"CD001", b"import os\n", b"chat_template"}))
BASES = sorted({"MODEL", ".x", "archive/data.pkl", *(name for name, _ in EXAMPLES)})
NAMES = st.sampled_from(BASES) | st.sampled_from([f"folder/model{ending}" for ending in ENDINGS]) | st.text(min_size=1, max_size=12)
PARTS = st.sampled_from(MARKS) | st.binary(max_size=40) | st.sampled_from([bytes(8), b" \n", b"\t", bytes(500), b" " * 253])
DATA = st.lists(PARTS, max_size=5).map(b"".join)
QUICK = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(NAMES, DATA, st.integers(0, 600), st.sampled_from(MARKS), st.booleans())
@example("a", b"\n{", 0, b"", False)
def test_any_name_and_any_bytes(name: str, data: bytes, at: int, mark: bytes, member: bool) -> None:
    placed = data[:at].ljust(at, b"\0") + mark + data[at:] if at else data
    for content in (data, placed):
        asking_all(Blob("file", memoryview(content), (name,), None) if member else Blob(name, memoryview(content)))


@pytest.mark.parametrize("ending", ["", ".bin", ".json", ".pb", ".txt", ".py"])
def test_what_fuzzing_starts_from_and_pieces_of_it(ending: str) -> None:
    def cases() -> Iterator[bytes]:
        for seed in seeds():
            yield from (seed, seed[: len(seed) // 2], seed[1:], b"\0" + seed, b" \n" + seed, seed + bytes(600), bytes(512) + seed)

    for data in cases():
        asking_all(Blob(f"file{ending}", memoryview(data)))
        asking_all(Blob("file", memoryview(data), (f"inside{ending}",), None))


def test_every_reader_is_asked_about_what_it_recognises() -> None:
    """All examples as they are; and there is one for every reader."""
    found: set[str] = set()
    for name, data in EXAMPLES:
        by = asking_all(Blob(name, memoryview(data))) + asking_all(Blob("file", memoryview(data), (name,), None))
        assert by, f"nothing recognises {name} with {data[:40]!r}"
        found |= {reader.what for reader in by}
    assert found == {reader.what for reader in every()}


def test_a_pickle_is_given_to_one_reader_only() -> None:
    assert [type(reader).__name__ for reader in asked(Blob("model.bin", memoryview(b"\x80\x04K\x01.")))] == ["PickleReader"]


def test_every_reader_comes_with_rules_that_the_detector_declares() -> None:
    assert {rule.id for reader in every() for rule in reader.rules} == {rule.id for rule in RULES}


def test_nothing_recognises_no_bytes() -> None:
    assert recognising(Blob("model.py", memoryview(b""))) == []
