"""What a worker gets to see of the user's environment, and what it can do to the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import ROOT

from modelguard._scanner import landlock
from modelguard._scanner.child import worker_environment
from modelguard._scanner.isolation import CONFINEMENTS
from modelguard._scanner.seccomp import REFUSED


def test_a_worker_sees_no_token_and_no_home() -> None:
    base = {"PATH": "/bin", "HF_TOKEN": "hf_x", "AWS_SECRET_ACCESS_KEY": "k", "HOME": "/root", "LC_ALL": "C", "PYTHONPATH": "/evil"}
    seen = worker_environment(base, "/empty", 3)
    assert seen["PATH"] == "/bin"
    assert seen["HOME"] == "/empty"
    assert seen["LC_ALL"] == "C"
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(seen)


def confined(tmp_path: Path, *attempts: str) -> list[str]:
    """What a process prints that shuts itself in like a worker, in the folder ``home``, and then runs each of ``attempts``."""
    (tmp_path / "home").mkdir(exist_ok=True)
    script = f"""
import os, sys
from modelguard._scanner.isolation import confine
from modelguard._scanner.protocol import Limits
held = confine(Limits(memory=None, threads=1))
for attempt in {[textwrap.dedent(attempt) for attempt in attempts]!r}:
    try:
        exec(attempt)
        print("done", flush=True)
    except PermissionError:
        print("refused", flush=True)
    except OSError as error:
        print(error, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OUT": str(tmp_path)}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=tmp_path / "home", env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


LANDLOCK = landlock.version(ctypes.CDLL(None, use_errno=True)) if sys.platform == "linux" else 0


def test_what_is_in_force_is_told(tmp_path: Path) -> None:
    told, _, *status = confined(tmp_path, "print(*held)", "print(open('/proc/self/status').read())" if sys.platform == "linux" else "")
    assert set(told.split()) <= set(CONFINEMENTS)
    assert ("landlock" in told.split()) == bool(LANDLOCK)
    if "seccomp" in told.split():
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status


@pytest.mark.skipif(not LANDLOCK, reason="the kernel has no Landlock")
def test_nothing_outside_its_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    attempts = (
        "open(os.environ['OUT'] + '/new', 'w')",
        "open(os.environ['OUT'] + '/there', 'a')",
        "os.mkdir(os.environ['OUT'] + '/folder')",
        "os.unlink(os.environ['OUT'] + '/there')",
        "os.rename(os.environ['OUT'] + '/there', os.environ['OUT'] + '/moved')",
        "os.symlink('x', os.environ['OUT'] + '/link')",
        "os.mkfifo(os.environ['OUT'] + '/fifo')",
        "os.truncate(os.environ['OUT'] + '/there', 0)" if LANDLOCK >= 3 else "raise PermissionError",
    )
    assert confined(tmp_path, *attempts) == ["refused"] * len(attempts)
    grafted = confined(tmp_path, "os.link(os.environ['OUT'] + '/there', 'grafted'); open('grafted', 'a')")
    assert grafted in (["refused"], ["[Errno 18] Invalid cross-device link"]) or "Errno 18" in grafted[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_in_its_folder_it_works_as_libraries_need(tmp_path: Path) -> None:
    attempt = """
        import multiprocessing, tempfile, threading
        with tempfile.TemporaryDirectory(dir='.') as folder:
            open(folder + '/x', 'w').write('x')
            os.rename(folder + '/x', folder + '/y')
        open('/dev/null', 'w').write('x')
        thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
        context = multiprocessing.get_context('fork')
        one, other = context.Pipe()
        process = context.Process(target=other.send, args=('sent',)); process.start(); process.join()
        lock = context.Lock()
        print(one.recv(), process.exitcode, open(os.environ['OUT'] + '/there').read())
    """
    (tmp_path / "there").write_text("readable")
    assert confined(tmp_path, attempt) == ["sent 0 readable", "done"]


@pytest.mark.skipif(platform.machine() not in REFUSED or sys.platform != "linux", reason="no filter for this machine")
def test_calls_that_no_detector_needs_are_refused(tmp_path: Path) -> None:
    attempts = (
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_INET)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
        "os.chmod('.', 0o777)",
        "os.chown('.', 0, 0)",
        "os.setxattr('.', 'user.x', b'x')",
        # io_uring, which opens sockets without that call; and, on x86-64, the call under its x32 name
        "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(425, 1, 0); raise OSError(ctypes.get_errno(), '')",
        "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(0x40000029, 1, 1, 0); raise OSError(ctypes.get_errno(), '')",
    )
    held, *answers = confined(tmp_path, "print(*held)", *attempts)
    if "seccomp" not in held.split():
        pytest.skip("the kernel takes no filter")
    assert answers == ["done", *["refused"] * len(attempts)]


@pytest.mark.skipif(LANDLOCK < 6, reason="the kernel's Landlock does not hold signals back")
def test_it_signals_nobody_outside(tmp_path: Path) -> None:
    assert confined(tmp_path, "os.kill(os.getppid(), 0)", "os.kill(os.getpid(), 0)") == ["refused", "done"]


def test_a_kernel_without_either_is_told_and_no_error(tmp_path: Path) -> None:
    script = (
        "import modelguard._scanner.landlock as l, modelguard._scanner.seccomp as s\nl._CREATE_RULESET = 9999\ns.REFUSED = {}\n"
        "from modelguard._scanner.isolation import confine\nfrom modelguard._scanner.protocol import Limits\n"
        "print(*confine(Limits(memory=None, threads=1)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"landlock", "seccomp"} & set(ran.stdout.split())
