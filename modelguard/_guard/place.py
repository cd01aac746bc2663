"""Moves of scanned files out of quarantine: each is there whole or not at all, and is the very file that was scanned.

What lies in the quarantine is renamed. What lies elsewhere (a blob lent by a cache) is copied, and the copy is hashed, because that file
can change meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelguard._sources.local import walk
from modelguard.artifact import Artifact, ArtifactFile, sha256_file
from modelguard.errors import ArtifactError, DigestMismatchError, OutputError, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Placed:
    """What was put into place: how many files, and their bytes."""

    files: int
    size: int


def into_folder(artifact: Artifact, folder: Path, quarantine: Path) -> Placed:
    """Make ``folder``, which does not exist or is empty, of the artifact's files, by one rename. Raises :class:`OutputError`."""
    ready = quarantine / "ready"
    names = Counter(file.local for file in artifact.files)  # equal files share a blob, which can be moved to one of them only
    with _told(folder):
        ready.mkdir()
        for file in artifact.files:
            place = ready / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            _take(file, place, quarantine if names[file.local] == 1 else None)
        os.rename(ready, os.path.realpath(folder))
    return Placed(len(artifact.files), sum(file.size for file in artifact.files))


def holds(artifact: Artifact, folder: Path) -> bool:
    """Whether ``folder`` holds the artifact's files, all and no other; False if it is empty or not there.

    Raises :class:`UsageError` for a folder that holds anything else: what nobody looked at would seem to have been scanned.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    try:
        there = {file.path: sha256_file(file).sha256 for file in walk(folder, None)}
    except (SourceError, ArtifactError) as error:
        raise UsageError(str(folder), f"holds what cannot be compared ({error})", "name another folder, or remove it first") from error
    if there != {file.path: file.sha256 for file in artifact.files}:
        raise UsageError(str(folder), "exists and holds other files than the commit's", "name another folder, or remove it first")
    return True


def into_place(artifact: Artifact, path: str, folder: Path, quarantine: Path) -> Placed:
    """Put the artifact's file ``path`` into ``folder``, over what has its name. Raises :class:`OutputError`."""
    file = artifact.file(path)
    assert file is not None, "only a file that was brought can be asked for"
    ready = quarantine / "ready"
    with _told(folder / path):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not Path(os.path.realpath(place.parent)).is_relative_to(os.path.realpath(folder)):
            raise OutputError(str(place), "lies behind a symlink that leads out of the folder", "remove the link")
        _take(file, ready, quarantine)
        os.replace(ready, place)
    return Placed(1, file.size)


def into_cache(artifact: Artifact, repository: Path, quarantine: Path, *, whole: bool) -> Path:
    """Add the artifact's files to ``repository``, its folder in a Hugging Face cache, and return the folder of its commit.

    A blob comes before the link to it, and the commit's name last, so that whatever interrupts this leaves only files that were scanned.
    With ``whole`` the folder must hold no other file in the end, because nobody has looked at it. Raises :class:`OutputError`.
    """
    commit = artifact.revision
    assert commit is not None, "a cache is made of commits"
    brought, ready = quarantine / "hub" / repository.name, quarantine / "ready"
    placed: set[Path] = set()
    snapshot = repository / "snapshots" / commit
    if artifact.root == snapshot:  # scanned where it lies, without the network
        _nothing_else(artifact, snapshot, whole)
        return snapshot
    with _told(repository):
        (repository / "blobs").mkdir(parents=True, exist_ok=True)
        for file in artifact.files:
            blob = repository / "blobs" / Path(os.readlink(artifact.root / file.path)).name
            link = snapshot / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            if blob not in placed and not _same(blob, file):
                _take(file, ready, quarantine)
                os.replace(ready, blob)
            placed.add(blob)
            fresh = quarantine / "link"
            os.symlink(os.path.relpath(blob, link.parent), fresh)
            os.replace(fresh, link)
        _nothing_else(artifact, snapshot, whole)
        if (mark := quarantine / "hub" / "CACHEDIR.TAG").exists() and not (repository.parent / mark.name).exists():
            os.replace(mark, repository.parent / mark.name)
        for record in ("trees", "refs"):
            for path in sorted((brought / record).rglob("*")):
                if path.is_file():
                    place = repository / record / path.relative_to(brought / record)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, place)
    return snapshot


def _nothing_else(artifact: Artifact, snapshot: Path, whole: bool) -> None:
    """Refuse a folder with files that were not scanned."""
    scanned = {file.path for file in artifact.files}
    there = (Path(folder, name).relative_to(snapshot).as_posix() for folder, _, names in os.walk(snapshot) for name in names)
    if whole and (others := sorted(path for path in there if path not in scanned)):
        thing = f"the cache's folder of commit {snapshot.name}"
        raise OutputError(thing, f"holds files that were not scanned ({', '.join(others[:3])})", "remove them, or `hf cache rm` the model")


def _take(file: ArtifactFile, place: Path, quarantine: Path | None) -> None:
    """Bring a scanned file to ``place``: by renaming it if it lies in the quarantine, else by a copy."""
    file.open().close()  # refuses a file that is no longer the one that was scanned
    if quarantine is not None and file.local.is_relative_to(quarantine):
        os.rename(file.local, place)
        return
    shutil.copyfile(file.local, place)
    copied = sha256_file(replace(file, local=place, stamp=None))
    if copied.sha256 != file.sha256:
        cause = f"its copy has sha256:{copied.sha256}, the file that was scanned has sha256:{file.sha256}"
        raise DigestMismatchError(file.path, cause, "fetch it again")


def _same(blob: Path, file: ArtifactFile) -> bool:
    """Whether ``blob`` is the very file that was scanned: one that the quarantine had borrowed, and that nobody changed since."""
    with contextlib.suppress(OSError):
        if blob.samefile(file.local):
            file.open().close()
            return True
    return False


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Say in one line what keeps files from ``place``."""
    try:
        yield
    except OSError as error:
        remedy = "name another folder"
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise OutputError(str(place), "has come to exist meanwhile", remedy) from error
        if error.errno == errno.ENOSPC:
            remedy = "free some space, or name a folder on another disk"
        raise OutputError(str(place), f"cannot be written ({error.strerror or error})", remedy) from error
    except (ArtifactError, DigestMismatchError) as error:
        raise OutputError(str(place), f"was not written: {error.thing} {error.cause}", "fetch it again") from error
