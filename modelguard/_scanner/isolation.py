"""What keeps a worker apart: its environment, its resource limits, and, where the kernel allows it, no network."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping

from modelguard._scanner.protocol import Limits

# Allowed through because libraries need them to find themselves, the GPU, or the user's language; nothing here carries a secret.
_KEEP = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
_KEEP_PREFIXES = ("LC_", "OMP_", "MKL_", "NVIDIA_", "COVERAGE_")

_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


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


def confine(limits: Limits) -> None:
    """Apply ``limits`` to this process. Called once, before anything hostile is opened and before any thread exists."""
    _die_with_parent()
    _drop_network()
    with contextlib.suppress(ImportError):
        import resource

        # RLIMIT_DATA stops heap growth but lets large files be mapped; RLIMIT_AS would count the maps.
        if limits.memory is not None:
            _limit(resource.RLIMIT_DATA, limits.memory)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, limits.file_size)
        _limit(resource.RLIMIT_NOFILE, 8192)


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


def _drop_network() -> None:
    """Move into a network namespace without interfaces; best effort, since a container may forbid it."""
    if sys.platform == "linux":
        libc = _libc()
        if libc.unshare(_CLONE_NEWNET) != 0 and os.getuid() != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
