"""The client's own cache, filled by the client: what a repository has in it, and what is brought into it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelguard._sources.listing import Listed
from modelguard._sources.local import COMMIT
from modelguard._sources.paths import unsafe_path
from modelguard._sources.session import Session, explain, raise_first, settle
from modelguard.errors import ModelguardError, SourceError

WORKERS = 4


@dataclass(frozen=True, slots=True)
class ClientCache:
    """The part of ``cache`` that is of the repository ``repo_id`` on the Hub at ``endpoint``. ``uri`` is what errors are about."""

    uri: str
    repo_id: str
    cache: Path
    endpoint: str
    token: bool | str | None
    progress: Callable[[int, int, str], None] | None

    @property
    def repository(self) -> Path:
        """Its folder."""
        return self.cache / ("models--" + self.repo_id.replace("/", "--"))

    def borrow(self, lender: Path) -> None:
        """Link to the blobs in ``lender``, the repository's folder in another cache: the client takes them for its own, and fetches only
        the others."""
        blobs = self.repository / "blobs"
        with contextlib.suppress(OSError), os.scandir(lender / "blobs") as found:
            blobs.mkdir(parents=True, exist_ok=True)
            for item in found:
                if item.is_file() and "." not in item.name:  # no unfinished one
                    os.symlink(item.path, blobs / item.name)

    def remember(self, session: Session, commit: str, revision: str) -> None:
        """Leave in the cache what an offline scan needs: the listing, in the client's own record, and the commit of ``revision``."""
        from huggingface_hub import snapshot_download

        session.attach()
        with contextlib.suppress(OSError, ValueError):  # a read-only cache is no reason to fail
            snapshot_download(
                self.repo_id,
                revision=commit,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                token=self.token,
                allow_patterns=[],
                tqdm_class=_quiet_bar(lambda _: None),
            )
            if not COMMIT.fullmatch(revision) and not unsafe_path(revision):
                ref = self.repository / "refs" / revision
                ref.parent.mkdir(parents=True, exist_ok=True)
                fresh = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
                fresh.write_text(commit, encoding="ascii")
                fresh.replace(ref)

    def download(self, session: Session, commit: str, wanted: Mapping[str, Listed]) -> None:
        """Let the client bring the wanted files of a commit into its cache, a few at a time. The first failure ends all of them."""
        from huggingface_hub import hf_hub_download

        root = self.repository / "snapshots" / commit
        total = sum(listed.size for listed in wanted.values())
        done = 0
        lock = threading.Lock()

        def download(path: str) -> None:
            def count(size: int) -> None:
                nonlocal done
                with lock:
                    done += size
                    if self.progress is not None:
                        self.progress(done, total, path)

            session.attach()
            try:
                brought = hf_hub_download(
                    self.repo_id,
                    path,
                    revision=commit,
                    cache_dir=self.cache,
                    endpoint=self.endpoint,
                    token=self.token,
                    library_name="modelguard",
                    tqdm_class=_quiet_bar(count),
                )
            except ModelguardError:
                raise
            except Exception as error:
                session.check()  # a connection that was cut is no reason of anything
                raise explain(f"{self.uri} {path}", error) from error
            if Path(brought) != root / path:
                raise SourceError(f"{self.uri} {path}", "the Hub answers for another commit than the one asked for", "check HF_ENDPOINT")

        from concurrent.futures import Future, ThreadPoolExecutor

        futures: list[Future[None]] = []
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            try:
                for path in wanted:  # in here too: an interrupt finds the first files being fetched already
                    futures.append(pool.submit(download, path))
                settle(futures)
            finally:
                fine = all(future.done() and not future.cancelled() and future.exception() is None for future in futures)
                if not fine or len(futures) < len(wanted):
                    session.stop()
                    pool.shutdown(wait=True, cancel_futures=True)
        failures = [failure for future in futures if not future.cancelled() and (failure := future.exception()) is not None]
        raise_first(failures)


def _quiet_bar(count: Callable[[int], None]) -> type:
    """A progress bar for the client that draws nothing and passes on the bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            count(int(n or 0))

    return Bar
