"""A local stand-in for the files of a Hub repository, in which only the bytes that were asked for are filled in."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelguard._formats.safetensors import read_header
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.listing import Listed
from modelguard._sources.ranges import RangeReader
from modelguard._sources.xet import Reconstructions
from modelguard.artifact import ArtifactFile, FileStamp, sha256_file
from modelguard.checkpoint import TensorInfo
from modelguard.errors import FormatError

Range = tuple[str, int, int]
"""Path, first byte, end."""


@dataclass(eq=False)
class Replica:
    """One repository at one commit. A file here has its true length; what was not filled in is a hole that reads as zeros.

    ``tensors`` holds the headers parsed so far, by path and name; ``filled`` the number of bytes that are there, by path.
    """

    uri: str
    place: HubUri
    commit: str
    listing: Mapping[str, Listed]
    reader: RangeReader
    xet: Reconstructions
    root: Path
    tensors: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def weights(self) -> list[str]:
        return [path for path in self.listing if path.lower().endswith(".safetensors")]

    def create(self, path: str) -> None:
        """Add a file, all of it a hole."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as handle:
            handle.truncate(self.listing[path].size)
        self.filled[path] = 0

    def fill(self, ranges: Iterable[Range], count: Callable[[str, int], None]) -> None:
        """Read byte ranges, none of which may be there already, from the Hub. ``count(path, bytes)`` is called as they come."""

        def write(path: str, offset: int, data: memoryview) -> None:
            self.write(path, offset, data)
            with self._lock:
                count(path, len(data))

        self.reader.copy(ranges, write)

    def write(self, path: str, offset: int, data: memoryview | bytes) -> None:
        """Fill in bytes."""
        # Not through a map: there a full disk is a bus error, not an exception.
        fd = os.open(self.root / path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(fd, data, offset) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        with self._lock:
            self.filled[path] += len(data)

    def read(self, path: str, begin: int, end: int) -> bytes:
        with (self.root / path).open("rb") as handle:
            handle.seek(begin)
            return handle.read(end - begin)

    def parse(self, path: str) -> None:
        """Read the header that was filled in. An invalid one has no tensors here; whoever opens the file will say what is wrong with it."""
        file = ArtifactFile(path, self.root / path, self.listing[path].size)
        try:
            self.tensors[path] = read_header(file.map(), path)[0]
        except FormatError:
            self.tensors[path] = {}

    def file(self, path: str, name: str) -> ArtifactFile:
        """The file as ``name`` of an artifact; hashed and compared with the listing when all of it is there."""
        file = ArtifactFile(name, self.root / path, self.listing[path].size)
        if self.filled[path] < file.size:
            with file.open() as handle:
                return replace(file, stamp=FileStamp.of(handle.fileno()))
        file = sha256_file(file)
        self.listing[path].verify(f"{self.uri} {path}", file)
        return file
