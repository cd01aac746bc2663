"""What keeps a worker apart: its environment, its limits, and, where the kernel allows it, no network, no writes and no new programs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from modelguard._scanner import landlock, seccomp
from modelguard._scanner.protocol import Limits

# Allowed through because libraries need them to find themselves, the GPU, or the user's language; nothing here carries a secret.
_KEEP = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
_KEEP_PREFIXES = ("LC_", "OMP_", "MKL_", "NVIDIA_", "COVERAGE_")

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


def worker_environment(base: Mapping[str, str], home: str, threads: int) -> dict[str, str]:
    """The environment of a worker: an allow-list of ``base``, an empty ``home``, no token, everything offline."""
    kept = {name: value for name, value in base.items() if name in _KEEP or name.startswith(_KEEP_PREFIXES)}
    return {
        # Threads that wait for each other while spinning keep the late one off the core: on two cores that something else uses too,
        # a pass through a small network then takes ten times as long.
        "OMP_WAIT_POLICY": "PASSIVE",
        # A search allocates and frees the same buffers at every step: handing them back to the kernel each time costs an eighth of it.
        # 32 MiB is the largest that glibc takes for the first.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
        **kept,
        "HOME": home,
        "TMPDIR": home,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


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
