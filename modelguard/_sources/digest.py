"""Hashing the files of an artifact: sha256 for the report, git blob ids to compare with what a Hub advertises."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from modelguard.artifact import HASH_BLOCK, ArtifactFile, sha256_file

Progress = Callable[[int, int, str], None]
_BATCH = 8 << 20
"""Bytes of the files that a thread hashes in one turn: handing one over takes as long as hashing 20 kB."""


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

    def hash_some(some: Sequence[ArtifactFile]) -> list[ArtifactFile]:
        def count(size: int) -> None:
            nonlocal done
            if stop.is_set():
                raise _Stopped
            with lock:
                done += size
                if progress is not None:
                    progress(done, total, file.path)

        hashed = []
        for file in some:
            hashed.append(sha256_file(file, count))
        return hashed

    batches = list(_batches(files))
    if len(batches) < 2:
        return tuple(hash_some(files))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            return tuple(file for batch in pool.map(hash_some, batches) for file in batch)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _batches(files: Sequence[ArtifactFile]) -> Iterator[Sequence[ArtifactFile]]:
    """``files`` in order, in parts that are worth a turn of a thread."""
    begin = size = 0
    for number, file in enumerate(files, 1):
        size += file.size
        if size >= _BATCH:
            yield files[begin:number]
            begin, size = number, 0
    if begin < len(files):
        yield files[begin:]


def git_blob_id(file: ArtifactFile) -> str:
    """The id git gives a file with these bytes: sha1 of ``"blob <length>" NUL bytes`` (Pro Git, 10.2 Git Objects)."""
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with file.open() as handle:
        while block := handle.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
