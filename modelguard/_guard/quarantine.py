"""The quarantine: a private folder, on the file system of the place that files are meant for, that a source brings them into.

It is locked while it is in use (:mod:`modelguard._temporary`), so that what a killed process leaves is removed by the next one.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from modelguard._formats.named import by_name
from modelguard._guard.place import Placed, holds, into_cache, into_folder, into_place
from modelguard._sources.hub import HubSource
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.listing import Listed
from modelguard._temporary import TemporaryFolder
from modelguard.artifact import Artifact, Source, SourceContext
from modelguard.errors import OutputError, SourceError


def everything(path: str) -> bool:
    """Asks for the whole repository."""
    return True


def by_patterns(allow: Sequence[str] | None, ignore: Sequence[str] | None) -> Callable[[str], bool]:
    """What the client's ``allow_patterns`` and ``ignore_patterns`` ask for; a pattern that ends in a slash means all below it."""

    def matches(path: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(path, item + "*" if item.endswith("/") else item) for item in patterns)

    return lambda path: (allow is None or matches(path, allow)) and not (ignore and matches(path, ignore))


class Quarantine(Source):
    """A Hub whose files come into a new folder in ``parent``. A context manager; leaving it removes what was not moved into place.

    ``asked`` says which files are wanted. Where none of them is a checkpoint (a configuration, a tokenizer) the whole repository is
    brought and looked at, because nobody can judge such a file without the model that it belongs to; only what was asked for is moved
    into a folder. ``cache`` is the user's own: it lends what it has, unless ``lend`` is False, and is all there is where the network
    may not be used. ``whole`` brings also what lies in the cache's folder of the commit already, because whoever is given the folder is
    given that too.
    """

    scheme: ClassVar[str] = "hf"

    def __init__(
        self,
        parent: Path,
        cache: Path,
        *,
        asked: Callable[[str], bool] = everything,
        endpoint: str | None = None,
        token: bool | str | None = None,
        lend: bool = True,
        whole: bool = False,
    ) -> None:
        self.artifact: Artifact | None = None
        self.asked = asked
        self._parent = parent
        self._cache = Path(cache).expanduser().resolve()
        self._endpoint = endpoint
        self._token = token
        self._lend = lend
        self._whole = whole
        self._repository = ""

    def __enter__(self) -> Quarantine:
        try:
            self._folder = TemporaryFolder(self._parent)
        except OSError as error:
            raise OutputError(str(self._parent), f"cannot be written to ({error.strerror})", "name another folder") from error
        self.path = self._folder.path
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.close()

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """Bring the files here; without the network, say what the user's own cache has. See :meth:`Source.fetch`."""
        self._repository = "models--" + HubUri.parse(uri).repo_id.replace("/", "--")
        lender = self._cache if self._lend else None
        hub = HubSource(self._endpoint, self.path / "hub", self._token, choose=self._choose, lender=lender)
        if context.offline or hub.offline:
            hub = HubSource(self._endpoint, self._cache, self._token, choose=self._choose)
        artifact = hub.fetch(uri, context)
        left = len(artifact.unfetched)
        notes = (f"{left} files of the repository were not asked for, and are not part of what was scanned",) if left else ()
        self.artifact = replace(artifact, unfetched=(), notes=(*artifact.notes, *notes))
        return self.artifact

    def _choose(self, paths: Mapping[str, Listed], commit: str, endings: tuple[str, ...]) -> Collection[str]:
        asked = [path for path in paths if self.asked(path)]
        if not asked:
            raise SourceError(f"commit {commit}", "holds none of the files asked for", "check their names and patterns")
        if not any(path.lower().endswith(endings) and by_name(path).matter != "inert" for path in asked):
            return paths
        if self._whole:
            there = self._cache / self._repository / "snapshots" / commit
            asked += [path for path in paths if os.path.lexists(there / path)]
        return asked

    def to_folder(self, folder: Path) -> Placed:
        """Make ``folder``, which does not exist or is empty, of the files asked for: at once, or not at all. Raises OutputError."""
        return into_folder(self._passed(), folder, self.path)

    def is_in(self, folder: Path) -> bool:
        """Whether ``folder`` holds the files asked for already. Raises :class:`UsageError` where it holds anything else."""
        return holds(self._passed(), folder)

    def to_place(self, path: str, folder: Path) -> Placed:
        """Put one file into ``folder``, in place of what is there under its name. Raises :class:`~modelguard.errors.OutputError`."""
        return into_place(self._passed(), path, folder, self.path)

    def to_cache(self) -> Path:
        """Add all files to the user's cache, and return its folder of the commit. Raises :class:`~modelguard.errors.OutputError`."""
        assert self.artifact is not None, "nothing was fetched"
        return into_cache(self.artifact, self._cache / self._repository, self.path, whole=self._whole)

    def _passed(self) -> Artifact:
        assert self.artifact is not None, "nothing was fetched"
        return replace(self.artifact, files=tuple(file for file in self.artifact.files if self.asked(file.path)))
