"""What the Hub says a model is now: the commit, and size and sha256 of every file; only what has no sha256 in the listing is fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelguard._formats.card import Card, read_card
from modelguard._lock.file import LockedFile
from modelguard._sources.hub import HubSource
from modelguard.artifact import SourceContext
from modelguard.errors import SourceError

if TYPE_CHECKING:
    from modelguard._sources.listing import Listed


@dataclass(frozen=True, slots=True)
class Pinned:
    """A model at one commit, as a lock describes it."""

    commit: str
    files: Mapping[str, LockedFile]
    card: Card


def pin(uri: str) -> Pinned:
    """Ask the Hub. Digests of large files are what it advertises: a scan compares the bytes with them. Raises :class:`SourceError`."""
    artifact = HubSource(choose=_without_digest, follow=False).fetch(uri, SourceContext())
    if artifact.revision is None:
        raise SourceError(uri, "has no commit", "name a model on the Hub")
    files = {file.path: LockedFile(size=file.size, sha256=file.sha256 or "") for file in artifact.files}
    files |= {file.path: LockedFile(size=file.size, sha256=file.digest.removeprefix("sha256:")) for file in artifact.unfetched}
    return Pinned(artifact.revision, dict(sorted(files.items())), read_card(artifact))


def _without_digest(listing: Mapping[str, Listed], commit: str, endings: tuple[str, ...]) -> Collection[str]:
    """Small files: git keeps them, and names them by sha1."""
    return [path for path, listed in listing.items() if listed.sha256 is None]
