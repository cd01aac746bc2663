"""Local paths: a file, a directory, a snapshot in a Hugging Face cache.

What the user names is followed wherever it lies; what the artifact itself contains may not lead out of it. The rules:

* A symlink is followed when it ends at a regular file inside the artifact. The one way out is a snapshot's own: into the
  ``blobs/`` of its repository, or, since huggingface_hub 2, the cache-wide ``<cache>/blobs/<2 hex>/<64 hex>``, and only to names
  that are digests. Any other link is refused. A symlinked directory is never walked: inside the artifact its files are listed where
  they lie, outside it is refused.
* A hard link has no target to check: every name of a file is as good as any other. What can be known is the number of names. When the
  artifact holds all of them, the file is wholly inside; when it does not, somebody outside can change the file under its
  scanned name (or an unpacked archive has grafted a foreign file in), and it is refused. Blobs of a cache are exempt: their
  names are digests, and deduplicating tools hard-link them. A file the user names directly is exempt too.
* FIFOs, sockets and devices are refused.
* Everything else is listed, but for what ``left_out.py`` shows to be a record of git's or of the Hub client's: that is counted, and said.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from modelguard import _limits
from modelguard._sources.digest import hash_files
from modelguard._sources.left_out import LFS_COPIES, lfs_object, place, why
from modelguard._sources.references import references
from modelguard.artifact import Artifact, ArtifactFile, LeftOut, Source, SourceContext, sha256_file, stamped
from modelguard.errors import SourceError

MAX_FILES = _limits.FILES
COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"(?:models|datasets|spaces|kernels)--.+")
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device", stat.S_IFCHR: "a character device"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A place in a Hugging Face cache: ``<cache>/<repository>/snapshots/<commit>``, all links in it resolved.

    ``lender`` is the same repository's folder in a second cache, whose blobs are the first one's too.
    """

    repository: Path
    commit: str
    lender: Path | None = None

    @classmethod
    def of(cls, folder: Path) -> Snapshot | None:
        """The snapshot that ``folder`` (resolved) is or lies in, or None."""
        for path in (folder, *folder.parents):
            if COMMIT.fullmatch(path.name) and path.parent.name == "snapshots" and _REPOSITORY.fullmatch(path.parent.parent.name):
                return cls(path.parent.parent, path.name)
        return None

    def holds(self, real: Path) -> bool:
        """Whether ``real`` (resolved) is a blob of this repository or of the cache-wide store."""
        repositories = [item for item in (self.repository, self.lender) if item is not None]
        places = [place for item in repositories for place in (item / "blobs", item.parent / "blobs" / real.name[:2])]
        return real.parent in places and bool(_BLOB.fullmatch(real.name))

    @property
    def repo_id(self) -> str | None:
        """``org/name`` of a model repository (huggingface_hub allows no ``--`` inside either), or None."""
        kind, *rest = self.repository.name.split("--")
        return "/".join(rest) if kind == "models" and len(rest) in (1, 2) and all(rest) else None


class LocalSource(Source):
    """Files on this machine.

    A snapshot in the machine's own Hugging Face cache is known by its repository and commit. The same folder names
    anywhere else are only names that somebody chose, perhaps to inherit another model's waivers: there, and for any other path, the
    identity is ``local:`` and the path below the working directory.
    """

    scheme: ClassVar[str] = ""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        named = Path(uri)
        shown = _shown(named)
        try:
            real = named.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise SourceError(shown, "does not exist" if missing else f"cannot be opened ({_cause(error)})", "check the path") from error
        left: Counter[tuple[str, str]] = Counter()
        if real.is_dir():
            root, snapshot = real, Snapshot.of(real)
            files = tuple(walk(root, snapshot, left))
            if not files:
                raise SourceError(shown, "the directory contains no files", "name the directory that holds the model")
        else:
            root, name, snapshot = _place(named, real)
            files = tuple(_with_neighbours(root, name, snapshot))
        files = tuple(sorted(files, key=lambda file: file.path))
        files = tuple(hash_files(files, context.progress)) if context.digest else tuple(map(stamped, files))
        files = _without_lfs_copies(files, left)
        identity, revision = self._identity(named, snapshot)
        left_out = tuple(LeftOut(path, count, reason) for (path, reason), count in sorted(left.items()))
        return Artifact(shown, identity, root, files, revision, left_out=left_out)

    def _identity(self, named: Path, snapshot: Snapshot | None) -> tuple[str, str | None]:
        if snapshot is None:
            return _identity(named), None
        if snapshot.repo_id is not None and snapshot.repository.parent == self._own_cache():
            return f"hf:{snapshot.repo_id}", snapshot.commit
        return _identity(snapshot.repository), None

    def _own_cache(self) -> Path:
        if self._cache is not None:
            return self._cache.resolve()
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def _shown(named: Path) -> str:
    """The path as reports show it: relative as given, else the base name."""
    return named.name or "/" if named.is_absolute() else named.as_posix()


def _identity(named: Path) -> str:
    """What tells a local model from others: its path below the working directory, else its base name and a digest of the absolute path.

    A base name alone would let a waiver for one model cover another. No absolute path enters a report.
    """
    whole, here = os.path.abspath(named), os.getcwd()
    if whole.startswith(here.rstrip("/") + "/"):
        return f"local:{os.path.relpath(whole, here)}"
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"local:{os.path.basename(whole) or 'root'}@{digest}"


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _place(named: Path, real: Path) -> tuple[Path, str, Snapshot | None]:
    """Folder and name of a single file: a snapshot's link keeps its place in the snapshot, any other link stands for its target."""
    folder = named.parent.resolve()
    snapshot = Snapshot.of(folder)
    if snapshot is not None and snapshot.holds(real):
        return folder, named.name, snapshot
    return real.parent, real.name, Snapshot.of(real.parent)


def _with_neighbours(root: Path, name: str, snapshot: Snapshot | None) -> Iterator[ArtifactFile]:
    """The named file, and the files it refers to: shards of an index, external data of an ONNX model."""
    file, _ = entry(root, name, snapshot)
    yield file
    for neighbour in references(file):
        if neighbour != name and os.path.lexists(root / neighbour):
            found, info = entry(root, neighbour, snapshot)
            if info.st_nlink > 1 and not _is_blob(found, snapshot):
                raise _hard_link(neighbour)
            yield found


def walk(root: Path, snapshot: Snapshot | None, left: Counter[tuple[str, str]] | None = None) -> Iterator[ArtifactFile]:
    """Every file below ``root``; where ``left`` is given, without those left out, which it counts by folder and reason.

    Raises SourceError for whatever the module's rules refuse.
    """

    names: Counter[tuple[int, int]] = Counter()
    linked: list[tuple[str, os.stat_result]] = []
    count = length = 0
    for path, item in _entries(root):
        symlink = item.is_symlink()
        file, info = entry(root, path, snapshot) if symlink else _own(root, path, item)
        count += 1
        if count > MAX_FILES:
            raise SourceError(root.name, f"the directory holds more than {MAX_FILES} files", "name the directory that holds the model")
        if (length := length + len(path.encode())) > _limits.PATHS:
            raise SourceError(root.name, f"the names of its files have more than {_limits.PATHS} bytes", "name a folder of it")
        if not symlink:
            # Before hard links are asked about: git shares its objects between clones by them.
            if left is not None and (reason := why(file)):
                left[place(path), reason] += 1
                continue
            names[info.st_dev, info.st_ino] += 1
        if info.st_nlink > 1 and not _is_blob(file, snapshot):
            linked.append((path, info))
        yield file
    for path, info in linked:
        if info.st_nlink > names[info.st_dev, info.st_ino]:
            raise _hard_link(path)


def _entries(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below ``root`` that is no directory, by its path from there."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as found:
                items = sorted(found, key=lambda item: item.name)
        except OSError as error:
            raise SourceError(
                folder.rstrip("/") or root.name, f"the directory cannot be read ({error.strerror})", "make it readable, or scan a copy"
            ) from error
        for item in items:
            path = folder + item.name
            try:
                is_folder = item.is_dir()
            except OSError:  # a link to what cannot be reached
                is_folder = False
            if not is_folder:
                yield path, item
            elif item.is_symlink():
                _check_folder_link(root, path)
            else:
                folders.append(f"{path}/")


def entry(root: Path, path: str, snapshot: Snapshot | None) -> tuple[ArtifactFile, os.stat_result]:
    """One file of the artifact, checked against the module's rules."""
    _check_name(path)
    named = root / path
    try:
        real = named.resolve(strict=True)
        info = os.stat(real)
    except (OSError, RuntimeError) as error:
        raise _out_of_reach(path, error) from error
    if not real.is_relative_to(root) and not (snapshot is not None and snapshot.holds(real)):
        raise SourceError(path, "is a symlink out of the artifact", "put the file itself in its place, or scan what it points to")
    return _checked(path, real, info)


def _own(root: Path, path: str, item: os.DirEntry[str]) -> tuple[ArtifactFile, os.stat_result]:
    """A file that is no link: it is where it is called, because no folder on the way to it is one either."""
    _check_name(path)
    try:
        info = item.stat(follow_symlinks=False)
    except OSError as error:
        raise _out_of_reach(path, error) from error
    return _checked(path, root / path, info)


def _out_of_reach(path: str, error: Exception) -> SourceError:
    cause = "is a symlink to nothing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({_cause(error)})"
    return SourceError(path, cause, "remove it from the artifact, or put the file in its place")


def _check_name(path: str) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "backslashreplace").decode()
        raise SourceError(shown, "its name is not valid UTF-8", "rename it, or scan in a UTF-8 locale") from None


def _checked(path: str, real: Path, info: os.stat_result) -> tuple[ArtifactFile, os.stat_result]:
    """The file at ``real``, which is inside the artifact, if it is one that can be read."""
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "no regular file")
        raise SourceError(path, f"is {kind}", "remove it from the artifact")
    if not os.access(real, os.R_OK):
        raise SourceError(path, "cannot be read (Permission denied)", "make it readable, or scan a copy")
    return ArtifactFile(path, real, info.st_size), info


def _check_folder_link(root: Path, path: str) -> None:
    real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(root):
        raise SourceError(path, "is a symlink out of the artifact", "put the directory itself in its place, or scan what it points to")


def _without_lfs_copies(files: tuple[ArtifactFile, ...], left: Counter[tuple[str, str]]) -> tuple[ArtifactFile, ...]:
    """``files`` without the objects of Git LFS that hold the bytes of another of them."""
    objects = {file.path: digest for file in files if (digest := lfs_object(file.path))}
    sizes = {file.size for file in files if file.path in objects}
    others = {_sha256(file) for file in files if file.path not in objects and file.size in sizes}
    copies = {file.path for file in files if objects.get(file.path) in others and _sha256(file) == objects[file.path]}
    left.update((f"{place(path)}/lfs", LFS_COPIES) for path in copies)
    return tuple(file for file in files if file.path not in copies)


def _sha256(file: ArtifactFile) -> str | None:
    return file.sha256 or sha256_file(file).sha256


def _is_blob(file: ArtifactFile, snapshot: Snapshot | None) -> bool:
    return snapshot is not None and snapshot.holds(file.local)


def _hard_link(path: str) -> SourceError:
    return SourceError(path, "is a hard link whose other names lie outside the artifact", "replace it with a copy")
