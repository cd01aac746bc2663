"""Artifacts: the files of one model, where they came from, and how their bytes are opened."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, ClassVar

from modelguard.errors import ArtifactError

HASH_BLOCK = 1 << 22
_READ_BLOCK = 1 << 18
"""Bytes that are hashed at once: what a processor's own cache holds."""
_WHOLE = 1 << 16
"""Bytes of a file that is read rather than mapped, which takes a third of the time of mapping it and touching its pages."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What the operating system says identifies a file's bytes. Equal stamps mean the file was not touched in between."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, fd: int) -> FileStamp:
        return cls.in_stat(os.fstat(fd))

    @classmethod
    def in_stat(cls, info: os.stat_result) -> FileStamp:
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact.

    ``path`` is POSIX and relative to the artifact, and is what reports show; ``local`` is where the bytes lie on this
    machine and never enters a report. ``sha256`` is 64 lower-case hex digits of the very bytes with ``stamp``, or None when
    the scan was asked not to hash.
    """

    path: str
    local: Path
    size: int
    sha256: str | None = None
    stamp: FileStamp | None = None

    def check(self) -> None:
        """Refuse a file that is gone, is no regular file, or changed since it was hashed. Raises what :meth:`open` raises of it."""
        try:
            info = os.stat(self.local)
        except OSError as error:
            raise self._not_there(error) from error
        self._check(info)

    def open(self) -> IO[bytes]:
        """Open for reading, refusing anything but the regular file that was listed.

        Raises :class:`ArtifactError` when the file is gone, is no regular file, or changed since it was hashed.
        """
        fd, _ = self._descriptor()
        try:
            return os.fdopen(fd, "rb")
        except BaseException:
            os.close(fd)
            raise

    def head(self, size: int) -> bytes:
        """The first bytes, at most ``size``. Raises what :meth:`open` raises."""
        fd, _ = self._descriptor()
        try:
            return _read(fd, size)
        finally:
            os.close(fd)

    def map(self) -> memoryview:
        """The whole file as a read-only view: memory-mapped, or read if it is short. Raises what :meth:`open` raises."""
        fd, info = self._descriptor()
        try:
            if info.st_size <= _WHOLE:
                return memoryview(_read(fd, info.st_size))
            return memoryview(mmap.mmap(fd, info.st_size, access=mmap.ACCESS_READ))
        finally:
            os.close(fd)

    def _descriptor(self) -> tuple[int, os.stat_result]:
        """The file opened, and what the system says of it."""
        try:
            # O_NONBLOCK keeps a FIFO that replaced the file from hanging the open.
            fd = os.open(self.local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._not_there(error) from error
        try:
            info = os.fstat(fd)
            self._check(info)
        except BaseException:
            os.close(fd)
            raise
        return fd, info

    def _not_there(self, error: OSError) -> ArtifactError:
        return ArtifactError(self.path, f"cannot be opened ({error.strerror})", "check that it exists and is readable")

    def _check(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            raise ArtifactError(self.path, "is not a regular file", "remove it from the artifact")
        if self.stamp is not None and FileStamp.in_stat(info) != self.stamp:
            raise ArtifactError(self.path, "changed while it was being scanned", "scan a copy that nothing writes to")


def _read(fd: int, size: int) -> bytes:
    """The first ``size`` bytes of an open file, or as many as it has."""
    parts = []
    while size and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class UnfetchedFile:
    """A file the artifact has but whose bytes were not brought here, so that nobody takes it for looked at.

    ``digest`` is what the remote side advertises (``sha256:<64 hex>`` or ``git:<40 hex>``, empty when unknown); ``reason``
    completes the sentence "was not fetched: ...".
    """

    path: str
    size: int
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files below ``path``, a folder (or file) of the artifact, that are on purpose no part of it: how many, and what they are."""

    path: str
    files: int
    reason: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """The files of one model, sorted by path.

    ``uri`` is what the user named, without absolute paths; ``identity`` is stable over revisions (``hf:org/name`` or
    ``local:<base name>``) and enters fingerprints; ``revision`` is the 40-hex commit of a remote artifact. ``unfetched`` are files
    it has beyond ``files``; ``notes`` say, one sentence each, what the source could not verify; ``left_out`` are records of other programs
    (git, the Hub's client) that lie among its files and were recognised as such. Reports show all three.
    """

    uri: str
    identity: str
    root: Path
    files: tuple[ArtifactFile, ...]
    revision: str | None = None
    unfetched: tuple[UnfetchedFile, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def file(self, path: str) -> ArtifactFile | None:
        """The file at artifact-relative ``path``, or None."""
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may use while it fetches.

    ``offline`` forbids the network; ``digest`` asks for sha256 of every file; ``progress(done, total, note)`` counts bytes;
    ``patterns`` limits a remote fetch to paths matching one of the globs (empty: whatever a scan needs); ``extensions`` are
    the endings of files, whatever their size, that a loaded format or a chosen detector can read.
    """

    offline: bool = False
    digest: bool = True
    patterns: tuple[str, ...] = ()
    extensions: tuple[str, ...] = (".safetensors", ".onnx")
    progress: Callable[[int, int, str], None] | None = None


class Source(ABC):
    """Where artifacts come from. ``scheme`` is the part before ``://`` (empty for local paths)."""

    scheme: ClassVar[str]

    @abstractmethod
    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """Bring the artifact here and describe it. Raises :class:`~modelguard.errors.SourceError`."""

    def pair(self, reference: str, target: str, context: SourceContext) -> AbstractContextManager[tuple[Artifact, Artifact]] | None:
        """Two artifacts of this source, reference first, of which only what may differ was read; they are there while the context lasts.

        They can be compared with each other and used for nothing else; their ``notes`` say what was compared by hash only. None (the
        default) when this source has no such way: both are fetched then. Raises :class:`~modelguard.errors.SourceError`.
        """
        return None


def stamped(file: ArtifactFile) -> ArtifactFile:
    """The file with its ``stamp``, for a scan that does not hash: what changes from here on is noticed all the same."""
    fd, info = file._descriptor()
    os.close(fd)
    return replace(file, size=info.st_size, stamp=FileStamp.in_stat(info))


def sha256_file(file: ArtifactFile, progress: Callable[[int], None] | None = None) -> ArtifactFile:
    """Hash a file and return a copy carrying ``sha256`` and the ``stamp`` of the bytes that were hashed.

    Raises :class:`ArtifactError` when the file changes while it is read.
    """
    fd, info = file._descriptor()
    try:
        digest = hashlib.sha256()
        if info.st_size <= _READ_BLOCK:
            digest.update(_read(fd, info.st_size + 1))  # one more tells a file that grows
            if progress is not None:
                progress(info.st_size)
        else:
            block = memoryview(bytearray(_READ_BLOCK))
            source = io.FileIO(fd, closefd=False)
            while count := source.readinto(block):
                digest.update(block[:count])
                if progress is not None:
                    progress(count)
        stamp = FileStamp.in_stat(info)
        if FileStamp.of(fd) != stamp:
            raise ArtifactError(file.path, "changed while it was being hashed", "scan a copy that nothing writes to")
    finally:
        os.close(fd)
    return ArtifactFile(file.path, file.local, stamp.size, digest.hexdigest(), stamp)
