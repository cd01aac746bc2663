"""Two Hub models side by side without downloading them: what is needed to compare their tensors, and no more.

Files whose listed digests are equal are not read beyond one header. Of the others, headers are read by range, and then the tensors that
may differ; tensors that Xet storage shows to be made of the same chunks are not read either.

What comes out are two artifacts of replicas: files of their true size in which everything that is equal on both sides by hash is a hole on
both sides. They open like any safetensors file, memory-mapped, in a worker that has neither token nor network. They are for comparing
with each other and for nothing else. ``Artifact.notes`` say what was compared by hash only.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modelguard._formats.safetensors import MAX_HEADER
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.listing import Listed, check_listing, resolve_commit
from modelguard._sources.ranges import RangeReader
from modelguard._sources.replica import Range, Replica
from modelguard._sources.session import Session, explain
from modelguard._sources.xet import Reconstructions, Run, equal_runs, uncovered
from modelguard._temporary import TemporaryFolder
from modelguard.artifact import Artifact, SourceContext, UnfetchedFile
from modelguard.checkpoint import TensorInfo
from modelguard.errors import ModelguardError, SourceError

if TYPE_CHECKING:
    from modelguard._sources.hub import HubSource

WHOLE = 64 << 10
"""Files up to this size (configurations, indices) are read whole and verified."""
DOWNLOAD = "compare with --download"


@contextmanager
def remote_pair(reference: str, target: str, context: SourceContext, source: HubSource) -> Iterator[tuple[Artifact, Artifact]]:
    """Replicas of two ``hf://`` models of one Hub, reference first, that show all differences of their safetensors. Removed on leaving.

    Raises :class:`~modelguard.errors.SourceError`, also when there is nothing to compare this way.
    """
    both = f"{reference} and {target}"
    if context.offline or source.offline:
        raise SourceError(both, "models cannot be compared by ranges without the network", f"{DOWNLOAD} what is in the cache")
    with TemporaryFolder() as folder:
        with Session(both, source.endpoint, source.patience) as session:
            try:
                old = _open(reference, source, session, Path(folder) / "reference")
                new = _open(target, source, session, Path(folder) / "target")
                artifacts = _Pair(old, new, context).bring()
            except ModelguardError:
                raise
            except Exception as error:
                raise explain(both, error) from error
        yield artifacts


def _open(uri: str, source: HubSource, session: Session, root: Path) -> Replica:
    from huggingface_hub import HfApi

    place = HubUri.parse(uri)
    try:
        api = HfApi(endpoint=source.endpoint, token=source.token, library_name="modelguard")
        commit = resolve_commit(api, uri, place)
        listing = check_listing(uri, api.list_repo_tree(place.repo_id, recursive=True, revision=commit))
    except ModelguardError:
        raise
    except Exception as error:
        raise explain(uri, error) from error
    inside = place.path + "/" if place.path else ""
    listing = {path: item for path, item in listing.items() if path.startswith(inside) or path == place.path}
    reader = RangeReader(uri, place.repo_id, commit, listing, session, source.endpoint, source.token)
    xet = Reconstructions(session, source.endpoint, place.repo_id, commit, reader.headers)
    root.mkdir()
    made = Replica(uri, place, commit, listing, reader, xet, root)
    if not made.weights:
        raise SourceError(uri, "has no safetensors files there, and only those can be compared by ranges", DOWNLOAD)
    return made


class _Twin(NamedTuple):
    """A tensor that both sides have in the same file, with the same name, dtype and shape. ``parts`` are its bytes, as ``[begin, end)``
    ranges of the reference's file, that hashes do not show equal; the target's lie ``shift`` further on."""

    path: str
    name: str
    begin: int
    end: int
    shift: int
    parts: list[tuple[int, int]]


class _Pair:
    """Two replicas being filled. ``old`` is the reference."""

    def __init__(self, old: Replica, new: Replica, context: SourceContext) -> None:
        self.old = old
        self.new = new
        self.context = context
        self._done = self._total = 0
        self._shared = {_content(item) for item in old.listing.values()} & {_content(item) for item in new.listing.values()}
        self._by_hash: dict[str, int] = {}
        """Number of tensors in a file that were compared by the hashes of their chunks only."""

    def bring(self) -> tuple[Artifact, Artifact]:
        for side in (self.old, self.new):
            weights = side.weights
            small = [path for path, item in side.listing.items() if item.size <= WHOLE and path not in weights]
            for path in weights + small:
                side.create(path)
            self._fill(side, [(path, 0, side.listing[path].size) for path in small])
        self._bring_headers()
        self._bring_tensors()
        return self._describe(self.old), self._describe(self.new)

    def _bring_headers(self) -> None:
        """The header of every file that differs, and one of each that both sides have."""
        known: dict[tuple[str, int], tuple[Replica, str]] = {}
        for side in (self.old, self.new):
            fresh = []
            for path in side.weights:
                if known.setdefault(_content(side.listing[path]), (side, path)) == (side, path):
                    fresh.append(path)
            self._fill(side, [(path, 0, min(8, side.listing[path].size)) for path in fresh])
            headers = []
            for path in fresh:
                length = int.from_bytes(side.read(path, 0, 8), "little")
                if length <= min(MAX_HEADER, side.listing[path].size - 8):
                    headers.append((path, 8, 8 + length))
            self._fill(side, headers)
            for path in side.weights:
                first, name = known[_content(side.listing[path])]
                if (first, name) != (side, path):
                    side.write(path, 0, first.read(name, 0, first.filled[name]))
                side.parse(path)

    def _bring_tensors(self) -> None:
        """Read what hashes do not show equal; where that finds a difference in a tensor, read the rest of it as well."""
        odd = self._odd_sizes()
        twins = list(self._twins(odd))
        self._fill(self.old, [(twin.path, at, to) for twin in twins for at, to in twin.parts])
        self._fill(self.new, [(twin.path, at + twin.shift, to + twin.shift) for twin in twins for at, to in twin.parts])

        paired = {(twin.path, twin.name) for twin in twins}
        for side in (self.old, self.new):
            alone = [
                (path, *_span(info))
                for path, tensors in side.tensors.items()
                for info in tensors.values()
                if (prod(info.shape) in odd if self._is_equal(side, path) else (path, info.name) not in paired)
            ]
            self._fill(side, alone)

        rest: list[tuple[_Twin, tuple[int, int]]] = []
        for twin in twins:
            missing = uncovered(twin.begin, twin.end, 0, [(at, at, to - at) for at, to in twin.parts])
            if self._parts_equal(twin):
                self._by_hash[twin.path] = self._by_hash.get(twin.path, 0) + bool(missing)
            else:
                rest += [(twin, part) for part in missing]
        self._fill(self.old, [(twin.path, at, to) for twin, (at, to) in rest])
        self._fill(self.new, [(twin.path, at + twin.shift, to + twin.shift) for twin, (at, to) in rest])

    def _twins(self, odd: set[int]) -> Iterator[_Twin]:
        runs: dict[str, list[Run]] = {}
        for path, info, other in self._same_tensors():
            if path not in runs:
                runs[path] = self._equal_runs(path)
            begin, end = _span(info)
            shift = _span(other)[0] - begin
            parts = [(begin, end)] if prod(info.shape) in odd else uncovered(begin, end, shift, runs[path])
            yield _Twin(path, info.name, begin, end, shift, parts)

    def _same_tensors(self) -> Iterator[tuple[str, TensorInfo, TensorInfo]]:
        """Tensors of the same place, name, dtype and shape in files that differ."""
        for path, tensors in self.old.tensors.items():
            others = self.new.tensors.get(path, {})
            if not self._is_equal(self.old, path) and not self._is_equal(self.new, path):
                for name, info in tensors.items():
                    if name in others and (info.dtype, info.shape) == (others[name].dtype, others[name].shape):
                        yield path, info, others[name]

    def _odd_sizes(self) -> set[int]:
        """Numbers of elements of tensors without a twin. Such a tensor may be compared with any other of its size: none may be a hole."""
        paired = {(path, info.name) for path, info, _ in self._same_tensors()}
        return {
            prod(info.shape)
            for side in (self.old, self.new)
            for path, tensors in side.tensors.items()
            for info in tensors.values()
            if not self._is_equal(side, path) and (path, info.name) not in paired
        }

    def _equal_runs(self, path: str) -> list[Run]:
        old, new = self.old.listing[path], self.new.listing[path]
        if not old.xet_hash or not new.xet_hash:
            return []
        return equal_runs(self.old.xet, old.xet_hash, old.size, self.new.xet, new.xet_hash, new.size)

    def _parts_equal(self, twin: _Twin) -> bool:
        step = 1 << 24
        return all(
            self.old.read(twin.path, begin, min(begin + step, to))
            == self.new.read(twin.path, begin + twin.shift, min(begin + step, to) + twin.shift)
            for at, to in twin.parts
            for begin in range(at, to, step)
        )

    def _is_equal(self, side: Replica, path: str) -> bool:
        """Whether the other side has a file of the same content."""
        return path in side.listing and _content(side.listing[path]) in self._shared

    def _fill(self, side: Replica, ranges: Iterable[Range]) -> None:
        merged = _merged(ranges)
        self._total += sum(end - begin for _, begin, end in merged)

        def count(path: str, size: int) -> None:
            self._done += size
            if self.context.progress is not None:
                self.context.progress(self._done, self._total, path)

        side.fill(merged, count)

    def _describe(self, side: Replica) -> Artifact:
        base = posixpath.dirname(side.place.path) if side.place.path in side.listing else side.place.path
        cut = len(base) + 1 if base else 0
        files = tuple(side.file(path, path[cut:]) for path in sorted(side.filled))
        unfetched = tuple(
            UnfetchedFile(path[cut:], item.size, item.digest, "it is not read when two models are compared by ranges")
            for path, item in side.listing.items()
            if path not in side.filled
        )
        partial = [path for path in sorted(side.filled) if side.filled[path] < side.listing[path].size]
        equal = [path[cut:] for path in partial if self._is_equal(side, path)]
        unequal = [path[cut:] for path in partial if not self._is_equal(side, path)]
        notes = []
        if equal:
            notes.append(f"equal in both models by the digest the Hub lists, not read: {', '.join(equal)}")
        for path, count in sorted(self._by_hash.items()):
            if count:
                notes.append(f"equal in both models by the hashes of their Xet chunks, not read in full: {count} tensors of {path[cut:]}")
        if unequal:
            notes.append(f"read in part, so not compared with the digest the Hub lists: {', '.join(unequal)}")
        identity = f"hf:{side.place.repo_id}"
        return Artifact(side.uri, identity, side.root / base, files, side.commit, unfetched, tuple(notes))


def _content(listed: Listed) -> tuple[str, int]:
    """What makes two listed files the same."""
    return listed.digest, listed.size


def _span(info: TensorInfo) -> tuple[int, int]:
    """Where a safetensors tensor's bytes lie in its file."""
    begin = info.byte_offset or 0
    return begin, begin + info.byte_length


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, without empty ones, neighbours joined."""
    merged: list[Range] = []
    for path, begin, end in sorted(ranges):
        if begin == end:
            continue
        if merged and merged[-1][0] == path and merged[-1][2] == begin:
            merged[-1] = (path, merged[-1][1], end)
        else:
            merged.append((path, begin, end))
    return merged
