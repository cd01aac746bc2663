"""Files that a file refers to: resolved inside the artifact or refused, never opened by the name the file gives them.

What the source listed is what may be read: it has already refused links that lead out (``modelguard._sources.local``), and its
digests are of these very bytes. A name is therefore only looked up, never joined to a folder and opened.
"""

from __future__ import annotations

import posixpath
from functools import cached_property

from modelguard._formats.names import MAX_NAME, shown
from modelguard._sources.paths import normal_path, unsafe_path
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.errors import FormatError


class Neighbours:
    """The files of an artifact, as the file at ``path`` in it may name them: relative to its own folder."""

    def __init__(self, artifact: Artifact, path: str) -> None:
        self._artifact = artifact
        self._folder = posixpath.dirname(path)

    @cached_property
    def _files(self) -> dict[str, ArtifactFile]:
        return {file.path: file for file in self._artifact.files}

    def resolve(self, name: str, thing: str) -> ArtifactFile:
        """The file called ``name``. Raises :class:`FormatError` when the name may lead out (MG0110) or nothing is there (MG0108)."""
        why = "is longer than any file name" if len(name) > MAX_NAME else unsafe_path(name)
        if why:
            cause = f"it refers to the file {shown(name)}, whose path {why}"
            raise FormatError(thing, cause, "do not load it: it reads files outside the model", rule="MG0110")
        path = normal_path(posixpath.join(self._folder, name))
        found = self._files.get(path)
        if found is not None:
            return found
        cause, remedy = f"it refers to {shown(path)}, which the artifact does not have", "scan the folder with all its files"
        for missing in self._artifact.unfetched:
            if missing.path == path:
                cause, remedy = f"it refers to {shown(path)}, which was not fetched: {missing.reason}", "fetch it"
        raise FormatError(thing, cause, remedy, rule="MG0108")
