"""The bytes of a checkpoint's file, held for as long as somebody holds a part of them."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import Any

from modelguard import ArtifactError, ArtifactFile


class HeldFile:
    """A file of ``size`` bytes that is mapped when it is asked for, and let go once nobody has a view of it: a model in hundreds of parts
    would run out of file descriptors otherwise. A short file, which is read and not mapped, is kept."""

    def __init__(self, file: ArtifactFile, size: int) -> None:
        self._file = file
        self._size = size
        self._held: Callable[[], Any] = lambda: None

    def view(self) -> memoryview:
        """The whole file. Raises :class:`~modelguard.errors.ArtifactError` when it is no longer what was opened."""
        if (held := self._held()) is not None:
            return memoryview(held)
        view = self._file.map()
        if len(view) != self._size:
            raise ArtifactError(self._file.path, "changed while it was being scanned", "scan a copy that nothing writes to")
        whole = view.obj
        self._held = weakref.ref(whole) if isinstance(whole, mmap.mmap) else lambda: whole
        return view
