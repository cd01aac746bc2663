"""What shuts a worker in: its limits, and, where the kernel allows it, no network, no writes and no new programs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any

from modelguard._scanner import landlock, seccomp
from modelguard._scanner.protocol import Limits

_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1

CONFINEMENTS = {
    "landlock": "writes to nothing but its own temporary folder, no TCP, no signals to others (Linux 5.13, 6.7 and 6.12)",
    "network-namespace": "a network without interfaces",
    "resource-limits": "memory, file size, open files",
    "seccomp": "no new program, socket, trace, mount, mode, owner, key or kernel module",
}
"""What a worker may be held by, as reports name it."""


def confine(limits: Limits) -> tuple[str, ...]:
    """Apply ``limits`` to this process and shut it in; what is in force, of :data:`CONFINEMENTS`.

    Called once, in the worker's own folder, before anything hostile is opened and before any thread exists.
    """
    _die_with_parent()
    found = ["network-namespace"] * _drop_network()
    with contextlib.suppress(ImportError):
        import resource

        # RLIMIT_DATA stops heap growth but lets large files be mapped; RLIMIT_AS would count the maps.
        if limits.memory is not None:
            _limit(resource.RLIMIT_DATA, limits.memory)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, limits.file_size)
        _limit(resource.RLIMIT_NOFILE, 8192)
        found.append("resource-limits")
    if sys.platform == "linux":
        libc = _libc()
        found += ["landlock"] * bool(landlock.restrict(libc, [os.getcwd(), *_measured()]))
        found += ["seccomp"] * seccomp.refuse(libc)
    return tuple(sorted(found))


def _measured() -> list[str]:
    """The folder that a measurement of test coverage, started from the environment, writes to."""
    coverage: Any = sys.modules.get("coverage")
    running = coverage.Coverage.current() if coverage is not None else None
    return [os.path.dirname(running.get_data().base_filename())] if running is not None else []


def _limit(kind: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (ceiling, ceiling))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        parent = os.getppid()
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _drop_network() -> bool:
    """Move into a network namespace without interfaces; best effort, since a container may forbid it."""
    if sys.platform != "linux":
        return False
    libc = _libc()
    return libc.unshare(_CLONE_NEWNET) == 0 or (os.getuid() != 0 and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
