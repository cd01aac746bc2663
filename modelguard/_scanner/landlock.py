"""Landlock (Linux 5.13 and newer): this process and its children write to a few folders only, and reach nothing by TCP or signal.

Structures, numbers and rights are those of ``linux/landlock.h`` and https://docs.kernel.org/userspace-api/landlock.html; what the running
kernel does not know yet is left out, as that page advises. Reading stays allowed: Python, plugins and drivers are read from everywhere, and
what is read cannot leave.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_REMOVE_FILE = 1 << 5
_MAKE_REG = 1 << 8
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
"""Write to files; remove and make whatever a folder can hold."""
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "dri/*", "kfd", "dxg", "nvidia-caps/*")
"""What may be written to below /dev: what holds nothing, and the drivers of graphics cards."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version(libc: ctypes.CDLL) -> int:
    """The kernel's version of the interface; 0 where it has none, or has it switched off."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))))


def restrict(libc: ctypes.CDLL, writable: Iterable[str | os.PathLike[str]]) -> int:
    """Forbid this thread, and all it starts, to write outside ``writable`` and :data:`DEVICES`; the version in force, 0 for none."""
    known = version(libc)
    if not known:
        return 0
    rights = _WRITES | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0) | (_IOCTL_DEV if known >= 5 else 0)
    attributes = _Ruleset(rights, _BIND_TCP | _CONNECT_TCP, _ABSTRACT_SOCKETS | _SIGNALS)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = int(libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    if ruleset < 0:
        return 0
    try:
        for folder in writable:
            _allow(libc, ruleset, os.fspath(folder), rights)
        # Shared memory and semaphores of processes that work together.
        _allow(libc, ruleset, "/dev/shm", rights & (_WRITE_FILE | _TRUNCATE | _MAKE_REG | _REMOVE_FILE))  # noqa: S108
        for pattern in DEVICES:
            for device in Path("/dev").glob(pattern):
                if stat.S_ISCHR(device.stat().st_mode):
                    _allow(libc, ruleset, device, rights & (_WRITE_FILE | _TRUNCATE | _IOCTL_DEV))
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            return 0
    except OSError:
        return 0
    finally:
        os.close(ruleset)
    return known


def _allow(libc: ctypes.CDLL, ruleset: int, path: str | os.PathLike[str], access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not there: nothing to allow
    try:
        rule = _Beneath(access, fd)
        libc.syscall(_ADD_RULE, ruleset, ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)
