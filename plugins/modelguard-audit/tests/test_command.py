"""``modelguard audit-data``: exit codes, one-line refusals, and the files it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from modelguard_zoo import Built
from test_audit import PLANTED, digits, training_set

from modelguard._cli import run

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """``say(*arguments)``: exit code, standard output and standard error of `modelguard audit-data`."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["audit-data", *map(str, arguments), "--threads", "1"])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def saved(path: Path, inputs: np.ndarray, labels: np.ndarray | None) -> Path:
    np.savez(path, inputs=inputs, **({} if labels is None else {"labels": labels}))
    return path


def test_poison_is_named_and_written_down(built: Callable[..., Built], tmp_path: Path, say: Say) -> None:
    model = built("blended", seed=1, target=4, **PLANTED["blended"])
    images, labels, bad = training_set(model)
    data, drop = saved(tmp_path / "train.npz", images, labels), tmp_path / "drop.txt"
    code, out, err = say(
        data, "--model", model.path, "--method", "spectral-signatures", "--drop", drop, "-o", f"json={tmp_path / 'audit.json'}"
    )
    assert code == 1, out + err
    assert "MG4001" in out
    places = [int(line) for line in drop.read_text().splitlines()]
    assert places == sorted(set(places))
    assert np.mean(bad[places]) >= 0.9
    document = json.loads((tmp_path / "audit.json").read_text())
    assert document["outcomes"][0]["findings"][0]["evidence"]["class"] == 4


def test_a_clean_set_passes(built: Callable[..., Built], tmp_path: Path, say: Say) -> None:
    model = built(seed=1)
    data = saved(tmp_path / "train.npz", *digits())
    code, out, err = say(data, "--model", model.path, "--method", "data-consistency", "--drop", tmp_path / "drop.txt")
    assert code == 0, out + err
    assert (tmp_path / "drop.txt").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--method", "magic"), "there is no such method"),
        (("--option", "magic.p_value=1"), "is not ID.name=value"),
        (("--option", "spectral-signatures.p_value=2"), "p_value"),
        (("-o", "json"), "is not FORMAT=PATH"),
        (("--drop", "no/such/folder/drop.txt"), "does not exist"),
        (("--policy", "builtin:nothing"), "nothing"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    built: Callable[..., Built], tmp_path: Path, say: Say, arguments: tuple[str, ...], word: str
) -> None:
    data = saved(tmp_path / "train.npz", *digits())
    code, out, err = say(data, "--model", built(seed=1).path, *arguments)
    assert (code, out) == (2, "")
    assert word in err
    assert len(err.strip().splitlines()) == 1


def test_nothing_that_is_read_is_overwritten(built: Callable[..., Built], tmp_path: Path, say: Say) -> None:
    model = built(seed=1).path
    data = saved(tmp_path / "train.npz", *digits())
    before = data.read_bytes()
    for arguments in (("--drop", data), ("-o", f"json={data}"), ("--drop", model / "record.json")):
        code, _, err = say(data, "--model", model, *arguments)
        assert code == 2
        assert "is read by this command" in err
    assert data.read_bytes() == before


@pytest.mark.parametrize("kind", ["no labels", "one class", "shape", "missing"])
def test_a_data_set_that_cannot_be_audited_is_no_pass(built: Callable[..., Built], tmp_path: Path, say: Say, kind: str) -> None:
    images, labels = digits()
    made = {
        "no labels": (images, None),
        "one class": (images[labels == 2], labels[labels == 2]),
        "shape": (images[:, :, :5], labels),
    }
    data = saved(tmp_path / "train.npz", *made[kind]) if kind in made else tmp_path / "missing.npz"
    code, out, err = say(data, "--model", built(seed=1).path, "--method", "spectral-signatures", "--drop", tmp_path / "drop.txt")
    assert code in (2, 3)
    assert (out + err).strip()
    assert not (tmp_path / "drop.txt").exists() or (tmp_path / "drop.txt").read_text() == ""


def test_help_says_what_the_exit_codes_mean(say: Say) -> None:
    code, out, _ = say("--help")
    assert code == 0
    assert "1 suspicious samples by policy" in out
