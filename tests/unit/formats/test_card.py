"""Model cards: what they claim, and what is no claim that two readers would read alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelguard import Artifact, ArtifactFile
from modelguard._formats.card import Card, read_card


def card(folder: Path, text: bytes) -> Card:
    (folder / "README.md").write_bytes(text)
    return read_card(Artifact("x", "x", folder, (ArtifactFile("README.md", folder / "README.md", len(text)),)))


@pytest.mark.parametrize(
    ("text", "licence", "bases"),
    [
        (b"# A model\n", None, ()),
        (b"---\nlicense: MIT\n---\n# A model\n", "mit", ()),
        (b"\xef\xbb\xbf---\r\nlicense: mit\r\nbase_model: org/base\r\n---\r\n", "mit", ("org/base",)),
        (b"---\nlicense: [mit, apache-2.0]\nbase_model:\n- org/a\n- org/b\n---", "mit and apache-2.0", ("org/a", "org/b")),
        (b"---\nlicense: other\nlicense_name: llama3\n---\n", "llama3", ()),
        (b"---\nlicense: other\n---\n", "other", ()),
        (b"---\ntags: [x]\n---\n", None, ()),
    ],
)
def test_claims(tmp_path: Path, text: bytes, licence: str | None, bases: tuple[str, ...]) -> None:
    assert card(tmp_path, text) == Card(licence, bases)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"---\nlicense: mit\n", "has no end"),
        (b"---\nlicense: mit\nlicense: gpl\n---\n", "is not valid YAML"),
        (b"---\na: &a x\nlicense: *a\n---\n", "uses YAML aliases"),
        (b"---\n- license\n---\n", "is not a mapping"),
        (b"---\nlicense: {a: b}\n---\n", "is no name"),
        (b"---\nbase_model: [1]\n---\n", "is no name"),
        (b"---\nlicense: 'x\x1b[2J'\n---\n", "YAML"),
        (b"---\nlicense: !!python/object:os.system x\n---\n", "YAML"),
        (b"---\nx: " + b"[" * 5000 + b"\n---\n", "nested too deeply"),
        (b"\xff\xfe---", "is not text"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_said(tmp_path: Path, text: bytes, problem: str) -> None:
    found = card(tmp_path, text)
    assert (found.licence, found.base_models) == (None, ())
    assert problem in found.problem
