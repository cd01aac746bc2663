"""The Hugging Face Hub, through its own client, with its cache, token and settings; and nothing the Hub says taken on trust.

Online, a revision becomes a commit once, by asking the Hub itself (the client's ``resolve_revision`` would fall back to a cached
branch when the Hub cannot be reached, which is how an outdated model passes a gate). Everything after that names the commit, so a
branch that moves meanwhile moves nothing here. The client does not compare a file with its digest; this source does.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from modelguard._sources.digest import hash_files
from modelguard._sources.download import ClientCache
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.listing import Listed, cached_listing, check_listing, resolve_commit, verify_blob_name
from modelguard._sources.local import COMMIT, Snapshot, entry, walk
from modelguard._sources.references import references
from modelguard._sources.session import Patience, Session, explain
from modelguard.artifact import Artifact, ArtifactFile, Source, SourceContext, UnfetchedFile
from modelguard.errors import DigestMismatchError, ModelguardError, SourceError

SMALL = 16 << 20
"""Files up to this size are fetched whatever they are: configurations, tokenizers, code, small weights."""
LARGE = 256 << 20
"""Files that are read as text or looked at, by their names, are fetched up to this size: a name is no evidence, so they are read."""
Choose = Callable[[Mapping[str, Listed], str, tuple[str, ...]], Collection[str]]
"""Given all files of a repository by path, the commit, and the endings of what formats read: the paths to bring."""


class HubSource(Source):
    """Model repositories on a Hub. The defaults are the client's: HF_ENDPOINT, HF_HUB_CACHE, the usual token.

    ``choose`` says what is brought of a repository, or folder of one, instead of what a scan needs; with ``follow``, what those files
    refer to comes too. ``lender`` is a second cache: blobs that it has are not fetched, and read where they lie.
    """

    scheme: ClassVar[str] = "hf"

    def __init__(
        self,
        endpoint: str | None = None,
        cache: Path | None = None,
        token: bool | str | None = None,
        patience: Patience | None = None,
        choose: Choose | None = None,
        follow: bool = True,
        lender: Path | None = None,
    ) -> None:
        self._follow = follow
        self._endpoint = endpoint
        self._cache = cache
        self._choose = choose
        self._lender = lender
        self.token = token
        self.patience = patience or Patience()

    @property
    def endpoint(self) -> str:
        """The Hub's address."""
        from huggingface_hub import constants

        return self._endpoint or str(constants.ENDPOINT)

    @property
    def offline(self) -> bool:
        """Whether the environment forbids the network (HF_HUB_OFFLINE)."""
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        """Bring what a scan needs at one commit, and verify every byte of it.

        Files up to :data:`SMALL` bytes, text and pictures by their names up to :data:`LARGE`, those ending in one of
        ``context.extensions``, and the external data of ONNX models are fetched; the rest is listed in ``Artifact.unfetched``.
        Offline, the cached snapshot must hold the same files.
        """
        place = HubUri.parse(uri)
        from huggingface_hub import constants

        cache = Path(self._cache or constants.HF_HUB_CACHE).expanduser().resolve()
        fetch = _Fetch(uri, place, context, cache, self.endpoint, self.token, self._choose, self._follow, self._lender)
        if context.offline or self.offline:
            return fetch.from_cache()
        with Session(uri, self.endpoint, self.patience) as session:
            try:
                return fetch.from_hub(session)
            except ModelguardError:
                raise
            except Exception as error:
                raise explain(uri, error) from error

    def commit(self, uri: str) -> str:
        """The commit that ``uri``'s revision stands for now, as the Hub itself says. Raises :class:`~modelguard.errors.SourceError`."""
        place = HubUri.parse(uri)
        if self.offline:
            raise SourceError(uri, "the Hub may not be asked in offline mode", "unset HF_HUB_OFFLINE")
        from huggingface_hub import HfApi

        with Session(uri, self.endpoint, self.patience) as session:
            session.attach()
            try:
                return resolve_commit(HfApi(endpoint=self.endpoint, token=self.token, library_name="modelguard"), uri, place)
            except ModelguardError:
                raise
            except Exception as error:
                raise explain(uri, error) from error

    def pair(self, reference: str, target: str, context: SourceContext) -> AbstractContextManager[tuple[Artifact, Artifact]] | None:
        """Replicas that were read by ranges; None offline, where the cache holds whole files."""
        from modelguard._sources.remote import remote_pair

        return None if context.offline else remote_pair(reference, target, context, self)


class _Fetch:
    """One fetch: what was asked, and where it goes."""

    def __init__(
        self,
        uri: str,
        place: HubUri,
        context: SourceContext,
        cache: Path,
        endpoint: str,
        token: bool | str | None,
        choose: Choose | None = None,
        follow: bool = True,
        lender: Path | None = None,
    ) -> None:
        self.uri = uri
        self.place = place
        self.context = context
        self._client = ClientCache(uri, place.repo_id, cache, endpoint, token, context.progress)
        self.repository = self._client.repository
        self._choose = choose
        self._follow = follow
        self._lender = lender / self.repository.name if lender is not None else None
        self._new: set[str] = set()

    def from_hub(self, session: Session) -> Artifact:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._client.endpoint, token=self._client.token, library_name="modelguard")
        commit = resolve_commit(api, self.uri, self.place)
        tree = api.list_repo_tree(self.place.repo_id, recursive=True, revision=commit)
        listing = self._below_path(check_listing(self.uri, tree), commit)
        self._client.remember(session, commit, self.place.revision or "main")
        if self._lender is not None:
            self._client.borrow(self._lender)
        snapshot = Snapshot(self.repository, commit, self._lender)
        root = self.repository / "snapshots" / commit

        def bring(wanted: Mapping[str, Listed]) -> list[ArtifactFile]:
            self._new |= {path for path in wanted if not os.path.lexists(root / path)}
            self._client.download(session, commit, wanted)
            return [entry(root, path, snapshot)[0] for path in wanted]

        return self._assemble(listing, root, commit, bring, notes=())

    def from_cache(self) -> Artifact:
        commit, notes = self._cached_commit()
        snapshot = Snapshot(self.repository, commit)
        root = self.repository / "snapshots" / commit
        if not root.is_dir():
            raise SourceError(self.uri, f"commit {commit} is not in the cache", "scan once online, without HF_HUB_OFFLINE")
        listing = cached_listing(self.uri, self.repository, commit)
        if listing is None:
            return self._assemble_unlisted(root, commit, snapshot, notes)

        def bring(wanted: Mapping[str, Listed]) -> list[ArtifactFile]:
            for path in wanted:
                if not os.path.lexists(root / path):
                    raise SourceError(f"{self.uri} {path}", "is not in the cache", "scan once online, without HF_HUB_OFFLINE")
            return [entry(root, path, snapshot)[0] for path in wanted]

        return self._assemble(self._below_path(listing, commit), root, commit, bring, notes)

    def _assemble(
        self,
        listing: Mapping[str, Listed],
        root: Path,
        commit: str,
        bring: Callable[[Mapping[str, Listed]], list[ArtifactFile]],
        notes: tuple[str, ...],
    ) -> Artifact:
        """Bring the wanted files, then those they refer to; hash, verify, and describe the result."""
        wanted = self._wanted(listing, commit)
        files = bring(wanted)
        referred = self._referred(files) if self._follow else []
        more = {path: listing[path] for path in referred if path in listing and path not in wanted}
        files += bring(more)
        files = list(hash_files(sorted(files, key=lambda file: file.path), self.context.progress))
        for file in files:
            try:
                listing[file.path].verify(f"{self.uri} {file.path}", file)
            except DigestMismatchError as error:
                raise self._removed(root, file, error) from error
        brought = {file.path for file in files}
        unfetched = (
            ()
            if self._is_file(listing)
            else tuple(
                UnfetchedFile(path, listed.size, listed.digest, self._why_not()) for path, listed in listing.items() if path not in brought
            )
        )
        return self._artifact(root, commit, files, unfetched, notes)

    def _removed(self, root: Path, file: ArtifactFile, error: DigestMismatchError) -> DigestMismatchError:
        """Take wrong bytes that this fetch brought out of the cache again: other programs would trust the name they lie under."""
        blob = file.local
        if file.path not in self._new or blob.parent != self.repository / "blobs":
            return error
        with contextlib.suppress(OSError):
            (root / file.path).unlink()
            blob.unlink()
            return DigestMismatchError(error.thing, error.cause, "it was removed from the cache; fetch it again, or distrust this Hub")
        return error

    def _assemble_unlisted(self, root: Path, commit: str, snapshot: Snapshot, notes: tuple[str, ...]) -> Artifact:
        """A snapshot that another program cached, file by file: all of it is scanned, less can be verified, and that is said."""
        files = [file for file in walk(root, snapshot) if self._asked_for(file.path)]
        if not files:
            raise SourceError(self.uri, f"nothing of it at commit {commit} is in the cache", "scan once online, without HF_HUB_OFFLINE")
        unverified = []
        files = list(hash_files(sorted(files, key=lambda file: file.path), self.context.progress))
        for file in files:
            link = root / file.path
            name = Path(os.readlink(link)).name if link.is_symlink() else ""
            if not verify_blob_name(f"{self.uri} {file.path}", file, name):
                unverified.append(file.path)
        notes += (
            "the cache has no listing of this commit: files that were never downloaded are unknown, and digests were compared with the "
            "names of the cached blobs only",
        )
        if unverified:
            notes += (f"not compared with any digest: {', '.join(unverified)}",)
        return self._artifact(root, commit, files, (), notes)

    def _artifact(
        self, root: Path, commit: str, files: Iterable[ArtifactFile], unfetched: tuple[UnfetchedFile, ...], notes: tuple[str, ...]
    ) -> Artifact:
        """Paths relative to the folder that was named (for a file: to the one it lies in), as for local paths."""
        from dataclasses import replace

        files = list(files)
        base = self.place.path
        if any(file.path == base for file in files):
            base = posixpath.dirname(base)
        cut = len(base) + 1 if base else 0
        return Artifact(
            self.uri,
            f"hf:{self.place.repo_id}",
            root / base if base else root,
            tuple(replace(file, path=file.path[cut:]) for file in files),
            commit,
            tuple(replace(file, path=file.path[cut:]) for file in unfetched),
            notes,
        )

    def _below_path(self, listing: Mapping[str, Listed], commit: str) -> dict[str, Listed]:
        """The part of the listing that was asked for: all, a folder, or a file with the folder it lies in."""
        chosen = {path: listed for path, listed in listing.items() if self._asked_for(path)}
        if not chosen:
            what = f"no file or folder {self.place.path!r}" if self.place.path else "no files"
            raise SourceError(self.uri, f"the repository has {what} at commit {commit}", self.place.reading or "check the path")
        if self._is_file(chosen):
            folder = posixpath.dirname(self.place.path)
            prefix = folder + "/" if folder else ""
            chosen = {path: listed for path, listed in listing.items() if path.startswith(prefix)}
        return chosen

    def _asked_for(self, path: str) -> bool:
        return not self.place.path or path == self.place.path or path.startswith(self.place.path + "/")

    def _is_file(self, listing: Mapping[str, Listed]) -> bool:
        return self.place.path in listing

    def _wanted(self, listing: Mapping[str, Listed], commit: str) -> dict[str, Listed]:
        if self._is_file(listing):
            return {self.place.path: listing[self.place.path]}
        if self._choose is not None:
            chosen = set(self._choose(listing, commit, self.context.extensions))
            return {path: item for path, item in listing.items() if path in chosen}
        patterns = self.context.patterns
        if patterns:
            return {path: item for path, item in listing.items() if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)}
        from modelguard._formats.named import by_name

        endings = tuple(self.context.extensions)
        return {
            path: item
            for path, item in listing.items()
            if item.size <= (LARGE if by_name(path).matter == "inert" else SMALL) or path.lower().endswith(endings)
        }

    def _why_not(self) -> str:
        return (
            "it matches none of the patterns asked for"
            if self.context.patterns
            else "no format reads it, and it is larger than 16 MiB (text: 256 MiB)"
        )

    def _referred(self, files: Iterable[ArtifactFile]) -> list[str]:
        """Repository paths that the fetched files refer to: the shards that an index names, the external data of an ONNX model."""
        names = []
        for file in files:
            if file.path.lower().endswith((".onnx", ".safetensors.index.json", ".bin.index.json")) or file.path == self.place.path:
                folder = posixpath.dirname(file.path)
                names += [posixpath.join(folder, name) for name in references(file)]
        return names

    def _cached_commit(self) -> tuple[str, tuple[str, ...]]:
        """The commit that a revision means offline: itself, or what the cache last saw the branch or tag at."""
        revision = self.place.revision or "main"
        if COMMIT.fullmatch(revision):
            return revision, ()
        try:
            commit = (self.repository / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise SourceError(
                self.uri, f"revision {revision!r} is not in the cache", self.place.reading or "scan once online, or name a cached commit"
            ) from error
        if not COMMIT.fullmatch(commit):
            raise SourceError(self.uri, f"the cache's record of revision {revision!r} is damaged", "scan once online")
        return commit, (f"revision {revision!r} was resolved from the cache: the Hub was not asked whether it has moved",)
