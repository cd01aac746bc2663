"""Exit codes that pipes nobody reads, full disks and impatient signals must not change."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

BLOCKED = ROOT / "tests" / "golden" / "reports" / "everything.json"


def unread(*argv: object, stderr: bool = False) -> tuple[int, str]:
    """Exit code and standard error of a command whose standard output, and error if asked, is a pipe without a reader."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "modelguard", *map(str, argv)],
            stdout=write_end,
            stderr=write_end if stderr else subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write_end)
    return ran.returncode, ran.stderr or ""


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    from modelguard._cli import run

    path = tmp_path_factory.mktemp("passed") / "r.json"
    assert run(["scan", str(tiny_model), "-q", "-o", f"json={path}"]) == 0
    return path


@pytest.mark.parametrize(
    "command",
    [
        "policy show",
        "policy show --resolved",
        "policy validate builtin:baseline",
        "rules",
        "rules MG9006",
        "plugins list",
        "schema report",
        "explain MG9006",
        "completion bash",
        "plugins",
    ],
)
def test_an_answer_nobody_reads_was_still_given(command: str) -> None:
    assert unread(*command.split()) == (0, "")


@pytest.mark.parametrize("command", ["--help", "--version", "scan --help", "policy --help"])
def test_help_nobody_reads_blocks_nothing(command: str) -> None:
    assert unread(*command.split()) == (3, "")


@pytest.mark.parametrize("form", ["--json", "--today=2026-11-21"])
def test_a_verdict_nobody_reads_stands(passed: Path, form: str) -> None:
    assert unread("policy", "eval", passed, form) == (0, "")
    assert unread("policy", "eval", BLOCKED, form) == (1, "")


def test_a_plan_nobody_reads_has_its_own_code(tiny_model: Path) -> None:
    assert unread("scan", tiny_model, "--plan") == (0, "")
    assert unread("scan", tiny_model, "--plan", "--detector", "weight-diff") == (3, "")


def test_errors_and_progress_nobody_reads_change_no_code(tiny_model: Path) -> None:
    assert unread("scan", tiny_model, stderr=True)[0] == 0
    assert unread("scan", tiny_model, "--detector", "nobody", stderr=True)[0] == 2
    assert unread("scan", "--no-such-option", stderr=True)[0] == 2
    assert unread("policy", "validate", "nowhere.yaml", stderr=True)[0] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_verdict_that_cannot_be_written_is_no_pass_and_hides_no_violation(passed: Path) -> None:
    for report, code in ((passed, 3), (BLOCKED, 1)):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "modelguard", "policy", "eval", str(report)]
            ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        line = "modelguard: error: standard output: cannot be written (No space left on device); free some space\n"
        assert (ran.returncode, ran.stderr) == (code, line)


CODES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}
FAST = ((signal.SIGTERM, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM), (signal.SIGINT, signal.SIGHUP))


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in itertools.product(CODES, CODES)],
)
def test_a_second_signal_does_not_cut_the_clearing_up_short(
    tmp_path: Path, tiny_model: Path, first: signal.Signals, second: signal.Signals
) -> None:
    script = (
        "import sys, time\n"
        "from modelguard import _temporary\n"
        "from modelguard._scanner import scan\n"
        "remove = _temporary.shutil.rmtree\n"
        "def planning(*given):\n    print('planning', flush=True)\n    time.sleep(60)\n"
        "def removing(*given, **named):\n    print('removing', flush=True)\n    time.sleep(1)\n    remove(*given, **named)\n"
        "scan._plan, _temporary.shutil.rmtree = planning, removing\n"
        "from modelguard._cli import main\n"
        "main(['scan', sys.argv[1], '-q'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tiny_model)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "planning\n"
    process.send_signal(first)
    assert process.stdout.readline() == "removing\n"
    for _ in range(2):
        process.send_signal(second)
        time.sleep(0.02)
    _, err = process.communicate(timeout=30)
    assert process.returncode == CODES[first]
    assert err.strip() == f"modelguard: {'interrupted' if first is signal.SIGINT else 'terminated'}; nothing was decided"
    assert list(tmp_path.iterdir()) == []
