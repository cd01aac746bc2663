"""Hashing the files of an artifact: sha256 for the report, git blob ids to compare with what a Hub advertises."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from modelguard.artifact import HASH_BLOCK, ArtifactFile, sha256_file

Progress = Callable[[int, int, str], None]


class _Stopped(Exception):
    """Tells the other threads that the work was given up."""


def hash_files(files: Sequence[ArtifactFile], progress: Progress | None = None) -> tuple[ArtifactFile, ...]:
    """The files with sha256 and stamp, in the same order; a few are hashed at a time. Progress is in bytes.

    Raises :class:`~modelguard.errors.ArtifactError` for the first file, by position, that cannot be read or changes meanwhile.
    """
    total = sum(file.size for file in files)
    done = 0
    lock = threading.Lock()
    stop = threading.Event()

    def hash_one(file: ArtifactFile) -> ArtifactFile:
        def count(size: int) -> None:
            nonlocal done
            if stop.is_set():
                raise _Stopped
            with lock:
                done += size
                if progress is not None:
                    progress(done, total, file.path)

        return sha256_file(file, count)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            return tuple(pool.map(hash_one, files))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def git_blob_id(file: ArtifactFile) -> str:
    """The id git gives a file with these bytes: sha1 of ``"blob <length>" NUL bytes`` (Pro Git, 10.2 Git Objects)."""
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with file.open() as handle:
        while block := handle.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
