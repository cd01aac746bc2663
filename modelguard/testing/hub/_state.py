"""What a Hub's servers share: what they answer from, and what they write down."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from modelguard.testing.hub._content import Repo, Xet
from modelguard.testing.hub._faults import Faults


@dataclass(frozen=True)
class Request:
    """One request as it came: ``kind`` as in :class:`Fault`, ``token`` the bearer token sent along, ``sent`` body bytes written back."""

    method: str
    kind: str
    target: str
    range: str | None
    token: str | None
    status: int
    sent: int


class State:
    """The side of LoopbackHub that its servers see."""

    storage: str

    def __init__(self, tokens: tuple[str, ...] = ("hf_loopback",), page_size: int = 1000, xet: bool = False) -> None:
        self.tokens = tokens
        self.page_size = page_size
        self.xet = Xet() if xet else None
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}
        self.faults = Faults()
        self._answering = 0
        self._answered = threading.Condition()
        self._requests: list[Request] = []
        self.wire_bytes = 0
        self.lock = threading.Lock()

    @property
    def requests(self) -> list[Request]:
        """What was asked so far. A client has its answer before its request is entered here, so this waits for what is being answered."""
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, timeout=1)  # an answer that a fault holds back may take for ever
            return self._requests

    def begin(self) -> None:
        """A request has come."""
        with self._answered:
            self._answering += 1

    def end(self, request: Request) -> None:
        """It was answered, or its client has gone."""
        with self._answered:
            self._answering -= 1
            self._requests.append(request)
            self._answered.notify_all()
