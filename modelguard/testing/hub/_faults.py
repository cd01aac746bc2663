"""What can be wrong with a Hub's answers, and with which of them it is."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FaultKind = Literal[
    "wrong-bytes",  # other bytes of the same length, under the right digest
    "truncate",  # the connection closes before the announced length
    "short",  # fewer bytes, and a matching Content-Length
    "ignore-range",  # 200 and the whole file for a Range request
    "wrong-range",  # 206 with the bytes, and Content-Range, of the range one byte further
    "encoded",  # Content-Encoding: gzip for a request of identity
    "status",  # HTTP `status`
    "rate-limit",  # 429 with Retry-After: `seconds`
    "slow",  # one byte every `seconds`
    "stall",  # headers, then nothing for `seconds`
    "drop",  # the connection closes without an answer
    "redirect-loop",
    "wrong-commit",  # X-Repo-Commit of another commit
    "wrong-etag",  # another digest in ETag and X-Linked-Etag, the one the wrong bytes would have
]


@dataclass
class Fault:
    """A defect of answers to requests whose kind (info, tree, resolve, storage, xet), repository and path match. ``times``: how often."""

    kind: FaultKind
    request: str = "*"
    repo: str = "*"
    path: str = "*"
    times: int | None = None
    status: int = 500
    seconds: float = 1.0

    def take(self, request: str, repo: str, path: str) -> bool:
        """Whether this answer has the defect; if so, it counts."""
        wanted = ((request, self.request), (repo, self.repo), (path, self.path))
        if self.times == 0 or not all(fnmatch.fnmatchcase(value, pattern) for value, pattern in wanted):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The faults switched on, and what is to happen before an answer."""

    def __init__(self) -> None:
        self._on: list[Fault] = []
        self._before: list[tuple[str, Callable[[], object]]] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._on.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._on.clear()

    def before(self, request: str, action: Callable[[], object]) -> None:
        with self._lock:
            self._before.append((request, action))

    def take(self, request: str, repo: str, path: str) -> list[Fault]:
        """The faults of this answer, after what was to happen before it."""
        with self._lock:
            actions = [action for wanted, action in self._before if wanted == request]
            self._before = [item for item in self._before if item[0] != request]
        # Not under the lock: an action may switch faults.
        for action in actions:
            action()
        with self._lock:
            return [fault for fault in self._on if fault.take(request, repo, path)]


def wrong(data: bytes) -> bytes:
    """Other bytes of the same length."""
    return bytes(byte ^ 0xFF for byte in data)
