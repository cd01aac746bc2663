"""What readers are given: the bytes of a file of the artifact, or of a member of an archive in it."""

from __future__ import annotations

import mmap
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from modelguard import Kind, kind_of
from modelguard_serialization._pickle.recognise import runs

START = 4096


@dataclass(frozen=True)
class Blob:
    """Bytes to look at.

    ``file`` is artifact-relative. ``members`` are the names on the way into it, outermost first: empty for the file itself.
    ``data`` are the bytes, read-only: mapped for a file and for what is stored in it uncompressed, else in memory.
    ``offset`` is where ``data`` begins in the file, or None where that means nothing because it was decompressed.
    """

    file: str
    data: memoryview
    members: tuple[str, ...] = ()
    offset: int | None = 0

    @property
    def name(self) -> str:
        """The path by which it is called: that of the innermost member, else the file's."""
        return self.members[-1] if self.members else self.file

    @cached_property
    def base(self) -> str:
        """The last part of the name, in lower case."""
        return self.name.rpartition("/")[2].lower()

    @cached_property
    def ending(self) -> str:
        """The lower-case ending of the name with its dot; empty when there is none."""
        return posixpath.splitext(self.base)[1]

    @cached_property
    def start(self) -> bytes:
        """The first :data:`START` bytes."""
        return bytes(self.data[:START])

    @cached_property
    def kind(self) -> Kind:
        """What it is where no loader of models is asked (:func:`modelguard.kind_of`)."""
        return kind_of(self.name, self.data)

    @cached_property
    def runs(self) -> bool:
        """Whether an unpickler would import or call something in it before it meets an error, or read all of it."""
        return runs(self.data)

    @property
    def place(self) -> str:
        """File and members in one string, as messages name it: ``model.pt!archive/data.pkl``."""
        return "!".join((self.file, *self.members))

    def head(self, size: int = 4096) -> bytes:
        """The first bytes, at most ``size``."""
        return self.start[:size] if size <= START else bytes(self.data[:size])

    def member(self, name: str, data: memoryview | bytes, offset: int | None = None) -> Blob:
        """A part of this one. ``offset`` counts from the beginning of this blob; None when ``data`` is not a stretch of it."""
        at = None if offset is None or self.offset is None else self.offset + offset
        return Blob(self.file, memoryview(data), (*self.members, name), at)


@contextmanager
def without_read_ahead(data: memoryview) -> Iterator[None]:
    """While a few bytes are looked at here and there: the kernel would read megabytes around each of them from the disk."""
    mapped = data.obj if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_RANDOM") else None
    if mapped is not None:
        mapped.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if mapped is not None:
            mapped.madvise(mmap.MADV_NORMAL)
