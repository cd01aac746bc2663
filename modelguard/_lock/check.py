"""Holds a model against its entry in the lock: each way in which it differs has a rule of its own, and all of them block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelguard._lock.file import LockedModel
from modelguard._policies.rules import FILE_NOT_LOCKED, LOCK_NOT_CHECKED, LOCKED_FILE_CHANGED, LOCKED_FILE_GONE, REVISION_MOVED
from modelguard._sources.hub import HubSource
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.local import COMMIT
from modelguard.artifact import Artifact, Source, SourceContext
from modelguard.errors import SourceError
from modelguard.report import LockDifference


def moved(model: LockedModel, hub: HubSource, *, offline: bool) -> Iterator[LockDifference]:
    """Whether the branch or tag that the lock names still means the commit that it pins."""
    revision = HubUri.parse(model.uri).revision
    if revision is not None and COMMIT.fullmatch(revision):
        return
    try:
        if offline:
            raise SourceError(model.uri, "the Hub was not asked", "scan online, or let the lock's uri name the commit")
        now = hub.commit(model.uri)
    except SourceError as error:
        said = f"whether it still means commit {model.commit} is not known: {error.cause}; {error.remedy}"
        yield LockDifference(LOCK_NOT_CHECKED.id, model.uri, said, blocks=False)
        return
    if now != model.commit:
        said = f"meant commit {model.commit} when it was locked, and means {now} now; `modelguard lock diff` shows what that changes"
        yield LockDifference(REVISION_MOVED.id, model.uri, said)


def differing(model: LockedModel, files: Mapping[str, tuple[int, str]]) -> Iterator[LockDifference]:
    """Each file, given by path with size and digest (``sha256:...``, or another where nobody knows that), that is not as it was locked."""
    for path in sorted({*model.files, *files}):
        locked, found = model.files.get(path), files.get(path)
        if locked is None:
            yield LockDifference(FILE_NOT_LOCKED.id, path, "is a file of the model, and the lock has no entry for it")
        elif found is None:
            yield LockDifference(LOCKED_FILE_GONE.id, path, "is in the lock, and the model has no such file")
        elif found != (locked.size, f"sha256:{locked.sha256}"):
            known = found[1].startswith("sha256:")
            said = f"is {found[0]} bytes with {found[1] or 'no digest'}, and the lock has {locked.size} bytes with sha256:{locked.sha256}"
            rule = LOCKED_FILE_CHANGED if known else LOCK_NOT_CHECKED
            yield LockDifference(rule.id, path, said, blocks=known)


class LockedSource(Source):
    """The Hub, asked for one model of the lock at the commit it pins. ``differences`` is what does not agree with the lock."""

    scheme = "hf"

    def __init__(self, model: LockedModel) -> None:
        self.differences: tuple[LockDifference, ...] = ()
        self._model = model

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """See :meth:`Source.fetch`."""
        hub = HubSource()
        self.differences = tuple(moved(self._model, hub, offline=context.offline or hub.offline))
        artifact = hub.fetch(uri, context)
        files = {file.path: (file.size, f"sha256:{file.sha256}" if file.sha256 else "") for file in artifact.files}
        files |= {file.path: (file.size, file.digest) for file in artifact.unfetched}
        self.differences += tuple(differing(self._model, files))
        return artifact
