"""What a Hub advertises of a repository at one commit: every file, its size and digest. Untrusted until checked here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelguard import _limits
from modelguard._sources.digest import git_blob_id
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.local import COMMIT, MAX_FILES
from modelguard._sources.paths import normal_path, unsafe_path
from modelguard.artifact import ArtifactFile
from modelguard.errors import DigestMismatchError, SourceError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
TREE_LIMIT = _limits.LISTING
REFETCH = "do not use it; delete the model from the cache (`hf cache rm`) and fetch it again"


@dataclass(frozen=True, slots=True)
class Listed:
    """One file as advertised. ``sha256`` is known for LFS (and Xet) files, ``blob_id`` is the git id of the file or its LFS pointer."""

    path: str
    size: int
    blob_id: str
    sha256: str | None = None
    xet_hash: str | None = None

    @property
    def digest(self) -> str:
        """The digest of the file's own bytes: ``sha256:...`` or ``git:...``."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.blob_id}"

    def verify(self, thing: str, file: ArtifactFile) -> None:
        """Compare a hashed file with what is advertised. Raises DigestMismatchError naming both digests."""
        have = f"sha256:{file.sha256}" if self.sha256 else f"git:{git_blob_id(file)}"
        if have != self.digest or file.size != self.size:
            raise DigestMismatchError(
                thing,
                f"its {file.size} bytes have {have}, but the Hub advertises {self.size} bytes with {self.digest}",
                REFETCH,
            )


def check_listing(thing: str, entries: Iterable[Any]) -> dict[str, Listed]:
    """The files among ``entries`` (huggingface_hub's RepoFile and RepoFolder) by path, sorted.

    Raises :class:`~modelguard.errors.SourceError` for a path that could leave the artifact, and for whatever is no listing.
    """
    files: dict[str, Listed] = {}
    for entry in entries:
        if not hasattr(entry, "blob_id"):
            continue  # a folder
        lfs = entry.lfs
        size, sha256 = (lfs.size, lfs.sha256) if lfs else (entry.size, None)
        _add(thing, files, entry.path, size, entry.blob_id, sha256, entry.xet_hash)
    return _bounded(thing, files)


def cached_listing(thing: str, repository: Path, commit: str) -> dict[str, Listed] | None:
    """The listing that the client keeps in ``<repository>/trees/<commit>.json``, or None when there is none it could have written."""
    try:
        with (repository / "trees" / f"{commit}.json").open("rb") as handle:
            text = handle.read(TREE_LIMIT + 1)
        content = json.loads(text) if len(text) <= TREE_LIMIT else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format_version") != 1 or not isinstance(content.get("files"), dict):
        return None
    files: dict[str, Listed] = {}
    for path, info in content["files"].items():
        if not isinstance(info, Mapping):
            return None
        size = info.get("lfs_size") if info.get("lfs_sha256") else info.get("size")
        _add(thing, files, path, size, info.get("blob_id"), info.get("lfs_sha256"), info.get("xet_hash"))
    return _bounded(thing, files)


def verify_blob_name(thing: str, file: ArtifactFile, name: str) -> bool:
    """Compare a hashed file with ``name``, its blob's name in the cache; False when that is no digest.

    The name is what the Hub's ETag said at download time: weaker than a listing, which is bound to the commit.
    """
    if not (_SHA1.fullmatch(name) or _SHA256.fullmatch(name)):
        return False
    have = file.sha256 if len(name) == 64 else git_blob_id(file)
    if have != name:
        raise DigestMismatchError(thing, f"its bytes have digest {have}, but the cache holds them under {name}", REFETCH)
    return True


def _add(thing: str, files: dict[str, Listed], path: Any, size: Any, blob_id: Any, sha256: Any, xet_hash: Any) -> None:
    """Check one entry and add it."""
    remedy = "do not use this repository"
    reason = unsafe_path(path) if isinstance(path, str) else "is not text"
    if reason:
        raise SourceError(thing, f"the listing names {path!r}: the path {reason}", remedy)
    well_formed = isinstance(size, int) and not isinstance(size, bool) and size >= 0 and path == normal_path(path)
    digests = ((blob_id, _SHA1), (sha256 or "0" * 64, _SHA256), (xet_hash or "0" * 64, _SHA256))
    if not well_formed or not all(isinstance(value, str) and pattern.fullmatch(value) for value, pattern in digests):
        raise SourceError(thing, f"the listing's entry for {path!r} has no valid path, size and digest", "check HF_ENDPOINT")
    if len(path.encode()) > _limits.PATH:
        raise SourceError(thing, f"the listing names a path of more than {_limits.PATH} bytes", remedy)
    if path in files:
        raise SourceError(thing, f"the listing names {path!r} twice", remedy)
    if len(files) >= MAX_FILES:
        raise SourceError(thing, f"the repository has more than {MAX_FILES} files", "name a folder of it: hf://org/name/folder")
    files[path] = Listed(path, size, blob_id, sha256, xet_hash)


def _bounded(thing: str, files: dict[str, Listed]) -> dict[str, Listed]:
    """``files`` in order of path. Raises SourceError where their names would fill a report."""
    if sum(len(path.encode()) for path in files) > _limits.PATHS:
        raise SourceError(
            thing, f"the names of its files have more than {_limits.PATHS} bytes", "name a folder of it: hf://org/name/folder"
        )
    return dict(sorted(files.items()))


def resolve_commit(api: Any, uri: str, place: HubUri) -> str:
    """The commit a revision stands for now, as the Hub itself says.

    Raises SourceError when there is no such revision, or when what the Hub says is no commit, or another one.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        commit = api.model_info(place.repo_id, revision=place.revision, timeout=20).sha
    except RevisionNotFoundError:
        name = "" if place.revision is None else f" {place.revision!r}"
        raise SourceError(uri, f"the repository has no such revision{name}", place.reading or "check the branch, tag or commit") from None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise SourceError(uri, "the Hub names no commit for the revision", "check HF_ENDPOINT")
    if place.revision is not None and COMMIT.fullmatch(place.revision) and commit != place.revision:
        raise SourceError(uri, f"the Hub answers for commit {commit}", "check HF_ENDPOINT")
    return commit
