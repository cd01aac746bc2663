"""How modelguard behaves on the wire: patience with a slow or busy Hub, whom it shows the token, and errors in one line.

The client's shared httpx session is used through its own event hooks, so that proxies, certificates and client factories the user
has set up keep working. Nothing a server says is repeated in an error, and neither is a URL: both may carry secrets (tokens,
signed queries) or terminal escapes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelguard.errors import ModelguardError, SourceError

if TYPE_CHECKING:
    from concurrent.futures import Future

SLICE = 0.5
"""Seconds after which a wait for transfers looks up."""
SOON, BUSY = 1.0, 10.0
"""Seconds after which one may ask again a Hub that failed, and one that is busy and does not say how long."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a Hub.

    ``timeout``: seconds to connect, and between two reads, where the client itself sets no limit. ``rate_limit``: seconds altogether
    that requests to wait (HTTP 429, Retry-After) are obeyed. A body that brings less than ``rate`` bytes/s over
    ``window`` seconds is given up, which bounds the total time of any transfer.
    """

    timeout: float = 20.0
    rate_limit: float = 60.0
    window: float = 30.0
    rate: int = 1024


class GivenUp(SourceError):
    """A transfer ended because another one of the same fetch failed; never the reason of anything."""


class Session:
    """Lends the client's session modelguard's manners while ``with``. Thread-safe.

    ``thing`` is what errors raised in the middle of a transfer are about; ``endpoint`` is the one host, beside the Hub's own, that may
    see the token.
    """

    def __init__(self, thing: str, endpoint: str, patience: Patience) -> None:
        self._thing = thing
        self._patience = patience
        self._waited = 0.0
        self._lock = threading.Lock()
        self._clients: list[Any] = []
        self._stopped = threading.Event()
        self._reading: set[Any] = set()
        self._granted: set[tuple[tuple[str, str, int], str]] = set()
        self._origins = {origin(endpoint), ("https", "huggingface.co", 443), ("https", "hf.co", 443)}

    def __enter__(self) -> Session:
        from huggingface_hub.utils import logging as client_logging

        self._verbosity = client_logging.get_verbosity()
        client_logging.set_verbosity(logging.CRITICAL + 1)  # its warnings quote URLs and whatever the server says
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils import logging as client_logging

        client_logging.set_verbosity(self._verbosity)
        for client in self._clients:
            for event, hook in (("request", self._on_request), ("response", self._on_response)):
                with contextlib.suppress(ValueError):
                    client.event_hooks[event].remove(hook)

    def attach(self) -> Any:
        """The client's current session, with the manners on. The client replaces its session after a failed connection."""
        from huggingface_hub import get_session

        with self._lock:
            client = get_session()
            if not any(client is known for known in self._clients):
                client.event_hooks["request"].append(self._on_request)
                client.event_hooks["response"].append(self._on_response)
                self._clients.append(client)
            return client

    def grant(self, url: str, authorization: str) -> None:
        """Let this one credential, which is not the user's token, go to the host of ``url``."""
        self._granted.add((origin(url), authorization))

    def stop(self) -> None:
        """Make every transfer in progress end with an error, one that waits for a silent server too."""
        self._stopped.set()
        with self._lock:
            for connection in self._reading:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise :class:`GivenUp` if the transfers were made to end."""
        if self._stopped.is_set():
            raise GivenUp(self._thing, "was given up")

    def _on_request(self, request: Any) -> None:
        self.check()
        host = origin(str(request.url))
        if host not in self._origins and (host, request.headers.get("authorization")) not in self._granted:
            request.headers.pop("authorization", None)
        timeout = request.extensions.get("timeout") or {}
        limits = {name: timeout.get(name) or self._patience.timeout for name in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": limits}

    def _on_response(self, response: Any) -> None:
        if response.status_code == 429:
            wait = retry_after(response)
            with self._lock:
                self._waited += (wait or 0) + 1
                if self._waited > self._patience.rate_limit:
                    raise rate_limited(self._thing, wait)
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

        session, network = self, response.extensions.get("network_stream")
        connection = network.get_extra_info("socket") if network is not None else None

        class Paced(httpx.SyncByteStream):
            def __init__(self, stream: Any) -> None:
                self.stream = stream

            def __iter__(self) -> Iterator[bytes]:
                return session._pace(self.stream, connection)

            def close(self) -> None:
                self.stream.close()

        response.stream = Paced(response.stream)

    def _pace(self, stream: Any, connection: Any) -> Iterator[bytes]:
        if connection is not None:
            with self._lock:
                self._reading.add(connection)
        try:
            self.check()
            yield from self._steadily(stream)
        finally:
            with self._lock:
                self._reading.discard(connection)

    def _steadily(self, stream: Any) -> Iterator[bytes]:
        begin, received = time.monotonic(), 0
        for chunk in stream:
            yield chunk
            self.check()
            received += len(chunk)
            now = time.monotonic()
            if now - begin > self._patience.window:
                if received < self._patience.rate * (now - begin):
                    pace = f"less than {self._patience.rate} bytes/s over {self._patience.window:g} s"
                    raise SourceError(self._thing, f"the Hub sends too slowly ({pace})", "try again later")
                begin, received = now, 0


def settle(futures: Sequence[Future[Any]]) -> None:
    """Wait until all are done, or one has failed.

    In slices: a signal that arrives just before a wait without end is not seen until somebody wakes this thread.
    """
    from concurrent.futures import FIRST_EXCEPTION, wait

    while True:
        done, waiting = wait(futures, SLICE, return_when=FIRST_EXCEPTION)
        if not waiting or any(future.exception() is not None for future in done):
            return


def raise_first(failures: list[BaseException]) -> None:
    """Raise the first failure that is a reason, if there is one."""
    for failure in failures:
        if not isinstance(failure, GivenUp):
            raise failure


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a token belongs to."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def retry_after(response: Any) -> int | None:
    """Seconds that a response asks to wait, or None when it gives no number."""
    value = response.headers.get("retry-after", "").strip()
    return int(value) if value.isdecimal() and len(value) < 10 else None


def rate_limited(thing: str, wait: int | None) -> SourceError:
    asks = f" and asks to wait {wait} s" if wait is not None else ""
    cause = f"the Hub limits the rate of requests (HTTP 429){asks}"
    return SourceError(thing, cause, "try again after that, or log in for a higher limit").later(BUSY if wait is None else wait, busy=True)


def explain(thing: str, error: BaseException) -> ModelguardError:
    """What an exception of huggingface_hub, httpx, the operating system or a JSON parser means for ``thing``, in one line."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    if isinstance(error, ModelguardError):
        return error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return explain(thing, error.__cause__)
    token = "log in with `hf auth login` or set HF_TOKEN"
    again = "try again later"
    network = "check the network and HF_ENDPOINT"
    answers: list[tuple[Any, str, str]] = [
        (errors.GatedRepoError, "the repository is gated and access was not granted", f"ask for access on its page, and {token}"),
        (errors.RevisionNotFoundError, "the repository has no such revision", "check the branch, tag or commit"),
        (errors.RemoteEntryNotFoundError, "the Hub does not have the file it lists (HTTP 404)", again),
        (errors.DisabledRepoError, "the Hub has disabled the repository", "use another model"),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or it is private and the token may not see it",
            f"check the name, or {token}",
        ),
        (errors.OfflineModeIsEnabled, "the Hub may not be asked in offline mode", "unset HF_HUB_OFFLINE, or scan once online"),
        (errors.LocalEntryNotFoundError, "is not in the cache", "scan once online"),
    ]
    for kind, cause, remedy in answers:
        if isinstance(error, kind):
            return SourceError(thing, cause, remedy)
    if isinstance(error, (errors.HfHubHTTPError, httpx.HTTPStatusError)):
        return _explain_status(thing, error.response, token)
    transport: list[tuple[Any, str, str]] = [
        (httpx.TooManyRedirects, "the Hub redirects in circles", network),
        (httpx.ConnectTimeout, "the Hub cannot be reached (connection timed out)", network),
        (httpx.TimeoutException, "the Hub stopped answering (timed out)", again),
        (httpx.ProxyError, "the proxy refuses the connection", "check HTTPS_PROXY"),
        (httpx.ConnectError, "the Hub cannot be reached (connection refused, or name or certificate not accepted)", network),
        (httpx.RemoteProtocolError, "the connection broke before the whole answer had come", again),
        (httpx.TransportError, "the connection to the Hub failed", again),
        (httpx.HTTPError, "the Hub's answer cannot be understood", network),
        (httpx.InvalidURL, "the Hub's address is not a valid URL", "check HF_ENDPOINT"),
        (errors.FileMetadataError, "the Hub's answer lacks the commit or digest of the file", network),
    ]
    for kind, cause, remedy in transport:
        if isinstance(error, kind):
            found = SourceError(thing, cause, remedy)
            return found.later(SOON) if isinstance(error, httpx.TransportError) else found
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return SourceError(thing, "there is no space left for it in the cache", "free some, or set HF_HUB_CACHE to another disk")
        if error.errno is not None:
            return SourceError(thing, f"cannot be stored in the cache ({error.strerror})", "check HF_HUB_CACHE")
        if "Consistency check failed" in str(error):
            return SourceError(thing, "the Hub sent fewer or more bytes than it announced", again).later(SOON)
    return SourceError(thing, f"the Hub's client failed ({type(error).__name__})", again)


def _explain_status(thing: str, response: Any, token: str) -> ModelguardError:
    status = response.status_code
    if status == 401:
        return SourceError(thing, "the Hub asks for a valid token (HTTP 401)", token)
    if status == 403:
        return SourceError(thing, "the token may not read it (HTTP 403)", f"use one with read access: {token}")
    if status == 404:
        return SourceError(thing, "the Hub does not have it (HTTP 404)", "check the name and HF_ENDPOINT")
    if status == 429:
        return rate_limited(thing, retry_after(response))
    if status >= 500:
        return SourceError(thing, f"the Hub is failing (HTTP {status})", "try again later").later(SOON)
    return SourceError(thing, f"the Hub refuses the request (HTTP {status})", "check the name and HF_ENDPOINT")
