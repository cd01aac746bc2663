"""What surrounds a scan cannot make it lie or leave things behind: impossible paths, closed streams, a parent that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, Ran

from modelguard._temporary import PREFIX, YOUNG, TemporaryFolder, sweep

Run = Callable[..., Ran]

NAME = "a" * 300
"""Longer than NAME_MAX."""
PATH = "dir/" * 1500 + "x"
"""Longer than PATH_MAX."""
STORED = ROOT / "tests" / "golden" / "reports" / "everything.json"


@pytest.mark.parametrize("path", [NAME, PATH], ids=["name", "path"])
def test_a_path_that_no_system_takes_is_one_line(mg: Run, tiny_model: Path, path: str) -> None:
    for argv in (
        ("scan", tiny_model, "--policy", path),
        ("scan", tiny_model, "--samples", path),
        ("scan", tiny_model, "-o", f"json={path}"),
        ("report", path),
        ("policy", "validate", path),
        ("policy", "eval", STORED, "--policy", path),
    ):
        ran = mg(*argv)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), argv[:3]
        assert "Traceback" not in ran.err
    for command in ("scan", "diff"):
        ran = mg(command, path, *([tiny_model] if command == "diff" else []), "-q")
        assert (ran.code, ran.err) == (3, ""), command


def shell(redirected: str, *argv: object) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "modelguard", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("redirected", "code"), [(">&-", 3), ("2>&-", 0), ("<&- >&- 2>&-", 3)])
def test_a_scan_writes_its_reports_whatever_streams_are_closed(tiny_model: Path, tmp_path: Path, redirected: str, code: int) -> None:
    out = tmp_path / "r.json"
    ran = shell(redirected, "scan", tiny_model, "--detector", "format-integrity", "-q", "-o", f"json={out}")
    assert ran.returncode == code
    assert json.loads(out.read_text())["decision"]["verdict"] == "pass"
    said = "modelguard: error: standard output: cannot be written (Bad file descriptor); free some space or use -o\n"
    assert ran.stderr == (said if redirected == ">&-" else "")


@pytest.mark.parametrize(
    ("redirected", "command"),
    [(">&-", "--version"), (">&- 2>&-", "schema report"), ("> /dev/full", "scan --help"), (">&-", "schema policy")],
)
def test_an_answer_that_cannot_be_printed_is_none(redirected: str, command: str) -> None:
    ran = shell(redirected, *command.split())
    assert ran.returncode == 3
    assert len(ran.stderr.splitlines()) == (0 if "2>" in redirected else 1)


def test_what_was_asked_wrongly_is_so_whoever_listens() -> None:
    assert shell(">&- 2>&-", "scan", "--no-such-option").returncode == 2
    assert shell(">&- 2>/dev/full", "policy", "validate", "nowhere.yaml").returncode == 2


def test_the_folder_of_a_killed_process_goes_with_the_next_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "from modelguard._temporary import *; import time; f = TemporaryFolder(); print(f.path, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    killed = Path(process.stdout.readline().strip())
    (killed / "left").write_text("x")
    mine = TemporaryFolder()
    young = tmp_path / f"{PREFIX}young"
    others = [tmp_path / "other", tmp_path / f"{PREFIX}file", tmp_path / f"{PREFIX}link"]
    young.mkdir()
    others[0].mkdir()
    others[1].write_text("x")
    others[2].symlink_to(others[0])
    old = time.time() - 2 * YOUNG
    for path in (killed, mine.path, *others):
        os.utime(path, (old, old), follow_symlinks=False)

    sweep.cache_clear()
    sweep()
    assert killed.is_dir(), "its owner is alive"
    process.send_signal(signal.SIGKILL)
    process.wait()
    sweep.cache_clear()
    sweep()
    assert sorted(tmp_path.iterdir()) == sorted([mine.path, young, *others])
    mine.close()
    assert not mine.path.exists()


def test_another_user_s_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stale = tmp_path / f"{PREFIX}stale"
    stale.mkdir()
    os.utime(stale, (1, 1))
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    sweep.cache_clear()
    sweep()
    assert stale.is_dir()
    monkeypatch.undo()
    sweep.cache_clear()
