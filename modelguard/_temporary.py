"""Temporary folders that outlive nobody: each is locked by the process it serves, and the next process removes those that no one locks.

A process that is killed by SIGKILL removes nothing itself; the kernel gives its lock (flock(2)) back all the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType

PREFIX = "modelguard-tmp-"
YOUNG = 60.0
"""Seconds that a folder is left alone after it was made, so that its owner has the time to lock it."""


class TemporaryFolder:
    """A new private folder, ``path``, locked until :meth:`close` removes it. A context manager. Raises ``OSError``.

    It lies in ``parent``, hidden, where one is named: what is moved out of it within one file system is there at once, or not at all.
    """

    def __init__(self, parent: Path | None = None) -> None:
        sweep(parent)
        prefix = PREFIX if parent is None else f".{PREFIX}"
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = _locked(self.path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where another has it, or the system knows no such locks."""
    try:
        import fcntl

        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (ImportError, AttributeError, OSError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


@cache
def sweep(parent: Path | None = None) -> None:
    """Remove the folders that killed processes of this user left behind in ``parent``; once in a process."""
    with contextlib.suppress(OSError, AttributeError), os.scandir(parent or tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.removeprefix(".").startswith(PREFIX):
                continue
            with contextlib.suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or time.time() - info.st_mtime < YOUNG:
                    continue
                if (fd := _locked(Path(entry.path))) is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(fd)
