"""Memory maps of checkpoint files: opened when first needed, and never more than a process has file descriptors for."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

from modelguard import _limits
from modelguard.artifact import ArtifactFile
from modelguard.errors import ArtifactError

MAX_OPEN = _limits.MAPS

_lock = threading.Lock()
_open: OrderedDict[int, weakref.ref[MappedFile]] = OrderedDict()
"""The files whose maps are open, least recently used first."""


class MappedFile:
    """A file of which byte ranges are handed out as read-only, zero-copy views.

    A view keeps its map alive, so forgetting the least recently used map never invalidates what was handed out.
    """

    def __init__(self, file: ArtifactFile, size: int) -> None:
        self.file = file
        self.size = size
        """Bytes the file had when its header was checked."""
        self._view: memoryview | None = None

    def view(self) -> memoryview:
        """The whole file. Raises :class:`~modelguard.errors.ArtifactError` when it is no longer what was checked."""
        with _lock:
            if self._view is None:
                view = self.file.map()
                if len(view) != self.size:
                    raise ArtifactError(self.file.path, "changed while it was being scanned", "scan a copy that nothing writes to")
                self._view = view
                key = id(self)
                _open[key] = weakref.ref(self, lambda _: _open.pop(key, None))
                while len(_open) > MAX_OPEN:
                    if (oldest := _open.popitem(last=False)[1]()) is not None:
                        oldest._view = None
            else:
                _open.move_to_end(id(self))
            return self._view

    def slice(self, offset: int, length: int) -> memoryview:
        """``length`` bytes from ``offset``, which the caller has checked against :attr:`size`."""
        return self.view()[offset : offset + length]
