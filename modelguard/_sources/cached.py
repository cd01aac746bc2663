"""What lies in a Hugging Face cache: its snapshots, and each of them as an artifact, without the network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from modelguard._sources.digest import hash_files
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.listing import verify_blob_name
from modelguard._sources.local import COMMIT, Snapshot, walk
from modelguard.artifact import Artifact, ArtifactFile, FileStamp, Source, SourceContext
from modelguard.errors import ArtifactError, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Cached:
    """One snapshot: a commit of a repository, the branches and tags last seen at it, and the files that are there.

    ``files`` says for each path which blob it is; it is empty where the folder cannot be read.
    """

    repo_id: str
    commit: str
    refs: tuple[str, ...]
    files: tuple[tuple[str, str], ...]

    @property
    def uri(self) -> str:
        return f"hf://{self.repo_id}@{self.commit}"


def snapshots(cache: Path) -> list[Cached]:
    """Every snapshot of a model in ``cache``, sorted by name and commit. Raises :class:`UsageError` where there is no such folder."""
    try:
        repositories = sorted(path for path in cache.iterdir() if path.name.startswith("models--") and path.is_dir())
    except OSError as error:
        raise UsageError(
            str(cache), f"is no cache that can be read ({error.strerror})", "name the folder that HF_HUB_CACHE names"
        ) from error
    return [item for repository in repositories for item in _of(repository)]


def others(cache: Path) -> tuple[str, ...]:
    """The repositories in ``cache`` that are no models: datasets, spaces, kernels. Nobody scans those."""
    return tuple(sorted(path.name for path in cache.iterdir() if path.name.startswith(("datasets--", "spaces--", "kernels--"))))


def _of(repository: Path) -> Iterator[Cached]:
    refs: dict[str, list[str]] = {}
    for path in sorted((repository / "refs").rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size <= len(40 * "0" + "\n"):
                refs.setdefault(path.read_text(errors="replace").strip(), []).append(path.relative_to(repository / "refs").as_posix())
    name = "/".join(repository.name.split("--")[1:])
    for folder in sorted((repository / "snapshots").glob("*")):
        yield Cached(name, folder.name, tuple(refs.get(folder.name, ())), tuple(sorted(_blobs(folder))))


def _blobs(folder: Path) -> Iterator[tuple[str, str]]:
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            yield path.relative_to(folder).as_posix(), os.path.realpath(path)


class CachedSource(Source):
    """The snapshots of one cache, by their URIs ``hf://org/name@commit``. A blob is hashed once, however many snapshots have it.

    All files that are there are scanned, and nothing else: what was never downloaded harms nobody. Their bytes are compared with the
    digests that their blobs are named by.
    """

    scheme: ClassVar[str] = "hf"

    def __init__(self, cache: Path) -> None:
        self._cache = cache.resolve()
        self._hashed: dict[Path, ArtifactFile] = {}

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """The snapshot as it lies there. See :meth:`Source.fetch`."""
        repo_id, _, commit = uri.removeprefix("hf://").partition("@")
        if not COMMIT.fullmatch(commit):
            raise SourceError(uri, f"the folder {commit!r} is no commit's", "remove it from the cache")
        HubUri.parse(uri)
        snapshot = Snapshot(self._cache / ("models--" + repo_id.replace("/", "--")), commit)
        root = snapshot.repository / "snapshots" / commit
        files = sorted(walk(root, snapshot), key=lambda file: file.path)
        if not files:
            raise SourceError(uri, "the snapshot has no files", "remove it from the cache")
        fresh = [file for file in files if not self._known(file)]
        self._hashed |= {file.local: file for file in hash_files(fresh, context.progress)}
        artifact = tuple(replace(self._hashed[file.local], path=file.path) for file in files)
        unverified = [file.path for file in artifact if not self._verified(uri, root, file)]
        notes = (f"not compared with any digest: {', '.join(unverified)}",) if unverified else ()
        return Artifact(uri, f"hf:{repo_id}", root, artifact, commit, notes=notes)

    def _known(self, file: ArtifactFile) -> bool:
        """Whether the very bytes of the file were hashed before."""
        known = self._hashed.get(file.local)
        try:
            return known is not None and FileStamp.in_stat(os.stat(file.local)) == known.stamp
        except OSError as error:
            raise ArtifactError(file.path, f"cannot be opened ({error.strerror})", "check that it exists and is readable") from error

    def _verified(self, uri: str, root: Path, file: ArtifactFile) -> bool:
        link = root / file.path
        return verify_blob_name(f"{uri} {file.path}", file, Path(os.readlink(link)).name if link.is_symlink() else "")
