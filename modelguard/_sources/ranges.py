"""Reading parts of a Hub file by HTTP ranges, where a wrong answer must never become wrong bytes.

A server may ignore a Range (200 and the whole file), shift it, encode it, or cut it short. Only 206 with exactly the Content-Range and
Content-Length asked for, no encoding, and that many bytes is an answer (RFC 9110, 14.4 and 15.3.7); everything else is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin

from modelguard._sources.listing import Listed
from modelguard._sources.session import Session, explain, origin, raise_first, retry_after, settle
from modelguard.errors import DigestMismatchError, ModelguardError, SourceError

PIECE = 8 << 20
"""Bytes asked for at a time."""
WORKERS = 4
ATTEMPTS = 4
MAX_REDIRECTS = 5
_TRANSIENT = (429, 500, 502, 503, 504)


class RangeReader:
    """Reads the files of one repository at one commit. Thread-safe."""

    def __init__(
        self, uri: str, repo_id: str, commit: str, listing: Mapping[str, Listed], session: Session, endpoint: str, token: bool | str | None
    ) -> None:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        self.listing = listing
        self._uri = uri
        self._repo_id = repo_id
        self._commit = commit
        self._session = session
        self._endpoint = endpoint
        self.headers = {**build_hf_headers(token=token, library_name="modelguard"), "Accept-Encoding": "identity"}
        self._locations: dict[str, str] = {}

    def copy(self, ranges: Iterable[tuple[str, int, int]], write: Callable[[str, int, memoryview], None]) -> None:
        """Hand the bytes of (path, begin, end) ranges to ``write(path, offset, data)``, piece by piece, from several threads, in any order.

        Holds at most :data:`WORKERS` pieces in memory. The first failure ends all of them.
        """
        pieces = [(path, at, min(at + PIECE, end)) for path, begin, end in ranges for at in range(begin, end, PIECE)]

        def bring(path: str, begin: int, end: int) -> None:
            data = memoryview(bytearray(end - begin))
            self._piece(path, begin, data)
            write(path, begin, data)

        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            futures = [pool.submit(bring, *piece) for piece in pieces]
            try:
                settle(futures)
            finally:
                if not all(future.done() and future.exception() is None for future in futures):
                    self._session.stop()
                    pool.shutdown(wait=True, cancel_futures=True)
        raise_first([failure for future in futures if not future.cancelled() and (failure := future.exception()) is not None])

    def _piece(self, path: str, begin: int, out: memoryview) -> None:
        thing = f"{self._uri} {path}"
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._ask(thing, path, begin, out)
            except ModelguardError:
                raise
            except httpx.TransportError as error:
                self._session.check()  # a connection that was cut is no reason of anything
                if last:
                    raise explain(thing, error) from error
                time.sleep(0.5 * 2**attempt)
                continue
            except Exception as error:
                self._session.check()
                raise explain(thing, error) from error
            if answer is None:
                return
            moved = self._locations.pop(path, None) is not None and answer.status_code in (401, 403, 404, 410)  # the address expired
            if last or not (moved or answer.status_code in _TRANSIENT):
                self._raise(thing, answer)
            if not moved:
                time.sleep(retry_after(answer) or 0.5 * 2**attempt)

    def _ask(self, thing: str, path: str, begin: int, out: memoryview) -> Any:
        """One attempt: None when ``out`` is filled, else the answer with an error status."""
        from huggingface_hub import hf_hub_url

        asked = f"bytes={begin}-{begin + len(out) - 1}"
        headers = {**self.headers, "Range": asked}
        home = hf_hub_url(self._repo_id, path, revision=self._commit, endpoint=self._endpoint)
        url = self._locations.get(path, home)
        client = self._session.attach()
        for _ in range(MAX_REDIRECTS):
            if origin(url) != origin(self._endpoint):
                headers.pop("authorization", None)
            with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if origin(url) == origin(self._endpoint):
                    self._check_identity(thing, path, response)
                if response.has_redirect_location:
                    url = urljoin(url, response.headers["location"])
                    continue
                if response.status_code >= 400:
                    return response
                self._check_range(thing, path, begin, out, response)
                self._fill(thing, out, response)
                self._locations[path] = url
                return None
        raise SourceError(thing, "the Hub redirects in circles", "check the network and HF_ENDPOINT")

    def _check_identity(self, thing: str, path: str, response: Any) -> None:
        """That the Hub answers for the commit and content it listed."""
        commit = response.headers.get("x-repo-commit", self._commit)
        if commit != self._commit:
            raise SourceError(thing, "the Hub answers for another commit than the one asked for", "check HF_ENDPOINT")
        etag = response.headers.get("x-linked-etag") or (response.headers.get("etag") if response.status_code in (200, 206) else None)
        listed = self.listing[path]
        if etag is not None and (have := etag.removeprefix("W/").strip('"')) != (listed.sha256 or listed.blob_id):
            shown = have if have.isalnum() else "another ETag"
            raise DigestMismatchError(
                thing, f"the Hub offers it as {shown}, but lists it with {listed.digest}", "fetch it with --download, or distrust this Hub"
            )

    def _check_range(self, thing: str, path: str, begin: int, out: memoryview, response: Any) -> None:
        remedy = "fetch it whole, with --download"
        expected = f"bytes {begin}-{begin + len(out) - 1}/{self.listing[path].size}"
        if response.status_code != 206:
            raise SourceError(thing, f"the server ignores ranges (HTTP {response.status_code} instead of 206)", remedy)
        if response.headers.get("content-range") != expected or response.headers.get("content-length") != str(len(out)):
            raise SourceError(thing, f"the server answers with another range than the one asked for ({expected})", remedy)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise SourceError(thing, "the server encodes the range", remedy)

    def _fill(self, thing: str, out: memoryview, response: Any) -> None:
        at = 0
        for chunk in response.iter_raw():
            out[at : at + len(chunk)] = chunk  # fails when it is longer
            at += len(chunk)
        if at != len(out):
            raise SourceError(thing, "the server sends fewer bytes than it announced", "fetch it whole, with --download")

    def _raise(self, thing: str, response: Any) -> None:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        try:
            hf_raise_for_status(response)
        except Exception as error:
            raise explain(thing, error) from error
