"""One HTTP server of a loopback Hub: its connections, and answers sent with the faults they have."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modelguard.testing.hub._content import Blob
from modelguard.testing.hub._faults import Fault, FaultKind, wrong
from modelguard.testing.hub._state import Request, State


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: State, handler: type[Handler], host: str) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.origin = f"http://{host}:{self.server_address[1]}"
        self.connections: set[socket.socket] = set()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self.stopped.is_set():
            return
        self.stopped.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no event."""


class Answer(Exception):
    """Ends a request with an error answer."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        named = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self.headers = {name: value for name, value in named.items() if value}


class Handler(BaseHTTPRequestHandler):
    """Answers requests over one connection; :meth:`route` says with what."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Requests are kept in LoopbackHub.requests."""

    def do_GET(self) -> None:
        self.kind, self._status, self._sent = "other", 0, 0
        self._faults: list[Fault] = []
        self.server.hub.begin()
        try:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.route()
        except Answer as answer:
            self.write(answer.status, b"", answer.headers)
        except OSError:
            self.close_connection = True
        finally:
            asked = self.headers.get("Range")
            request = Request(self.command, self.kind, self.path, asked, self.token() or None, self._status, self._sent)
            self.server.hub.end(request)

    do_HEAD = do_GET
    do_POST = do_GET

    def route(self) -> None:
        raise NotImplementedError

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def asked_range(self, size: int) -> tuple[int, int]:
        """Where the bytes asked for begin and end."""
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def begin(self, kind: str, repo: str, path: str) -> None:
        """Note what is asked, and apply the faults that need no answer's body."""
        self.kind = kind
        self._faults = self.server.hub.faults.take(kind, repo, path)
        for fault in self._faults:
            if fault.kind == "status":
                raise Answer(fault.status)
            if fault.kind == "rate-limit":
                raise Answer(429, headers={"Retry-After": str(int(fault.seconds))})
            if fault.kind == "redirect-loop":
                raise Answer(302, headers={"Location": self.path})
            if fault.kind == "drop":
                raise ConnectionAbortedError

    def faulty(self, kind: FaultKind) -> Fault | None:
        return next((fault for fault in self._faults if fault.kind == kind), None)

    def send_json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self.write(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_content(self, blob: Blob, headers: Mapping[str, str]) -> None:
        """The whole file or the range asked for, as the faults have it."""
        begin, end, status = 0, blob.size, 200
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        if self.headers.get("Range") and not self.faulty("ignore-range"):
            begin, end = self.asked_range(blob.size)
            status = 206
            if begin >= blob.size:
                raise Answer(416, headers={"Content-Range": f"bytes */{blob.size}"})
            if self.faulty("wrong-range") and end < blob.size:
                begin, end = begin + 1, end + 1
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
        if self.faulty("encoded"):
            headers["Content-Encoding"] = "gzip"
        if self.faulty("short"):
            end -= max(1, (end - begin) // 2)
        self.write(status, None, {**headers, "Content-Length": str(end - begin)})
        if self.command == "HEAD":
            return
        if self.faulty("truncate"):
            end -= max(1, (end - begin) // 2)
            self.close_connection = True
        if stall := self.faulty("stall"):
            self.server.stopped.wait(stall.seconds)
        slow = self.faulty("slow")
        step = 1 if slow else 1 << 20
        for offset in range(begin, end, step):
            block = blob.read(offset, min(step, end - offset))
            self._send(wrong(block) if self.faulty("wrong-bytes") else block)
            if slow and self.server.stopped.wait(slow.seconds):
                return

    def write(self, status: int, body: bytes | None, headers: Mapping[str, str]) -> None:
        """An answer; without ``body``, its head alone."""
        self._status = status
        lines = [f"HTTP/1.1 {status} {self.responses.get(status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if self.close_connection:
            lines.append("Connection: close")
        self._put("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
        if body and self.command != "HEAD":
            self._send(body)

    def _send(self, body: bytes) -> None:
        self._put(body)
        self._sent += len(body)

    def _put(self, data: bytes) -> None:
        self.wfile.write(data)
        with self.server.hub.lock:
            self.server.hub.wire_bytes += len(data)
