"""A Hugging Face Hub on the loopback interface, for tests: repositories in memory, the real HTTP API, and faults to switch on.

    with LoopbackHub() as hub:
        commit = hub.commit("org/model", {"model.safetensors": data, "config.json": b"{}"})
        hub.fault("wrong-bytes", path="model.safetensors")
        subprocess.run([...], env={**os.environ, **hub.env(tmp_path)})

It speaks what huggingface_hub 1.31 to 2.x asks of a Hub: model info, tree with paging, paths-info, refs, resolve with HEAD, Range and
ETag. LFS files redirect to a second origin, as they do on the real Hub, so that a token sent on to it is seen. With ``xet=True``
listings carry Xet hashes and reconstructions can be asked for; Xet downloads, which hf_xet would then try, are not served.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import posixpath
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

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
LFS_ENDINGS = (".safetensors", ".onnx", ".bin", ".onnx_data", ".data", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")


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


@dataclass
class _Blob:
    """File content: bytes, or a file too large for memory."""

    content: bytes | Path
    lfs: bool
    size: int = 0
    sha256: str = ""
    blob_id: str = ""
    xet_hash: str = ""

    def __post_init__(self) -> None:
        self.size = len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size)
        for offset in range(0, self.size, 1 << 22):
            block = self.read(offset, min(1 << 22, self.size - offset))
            sha256.update(block)
            sha1.update(block)
        self.sha256 = sha256.hexdigest()
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n" % (self.sha256.encode(), self.size)
        self.blob_id = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest() if self.lfs else sha1.hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[offset : offset + length]
        with self.content.open("rb") as handle:
            handle.seek(offset)
            return handle.read(length)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


class _Xet:
    """Content-addressed storage as Xet has it: chunks (here of one size) in xorbs, one xorb for the new chunks of each file."""

    CHUNK = 1 << 16

    def __init__(self) -> None:
        self._chunks: dict[bytes, tuple[str, int]] = {}
        self._files: dict[str, list[tuple[str, int, int]]] = {}

    def store(self, blob: _Blob) -> None:
        blob.xet_hash = hashlib.sha256(b"xet" + blob.sha256.encode()).hexdigest()
        xorb = hashlib.sha256(b"xorb" + blob.sha256.encode()).hexdigest()
        placed, fresh = [], 0
        for offset in range(0, blob.size, self.CHUNK):
            data = blob.read(offset, min(self.CHUNK, blob.size - offset))
            key = hashlib.sha256(data).digest()
            if key not in self._chunks:
                self._chunks[key] = (xorb, fresh)
                fresh += 1
            placed.append((*self._chunks[key], len(data)))
        self._files[blob.xet_hash] = placed

    def reconstruction(self, xet_hash: str, begin: int, end: int) -> dict[str, Any] | None:
        """Terms for bytes ``[begin, end)``: runs of neighbouring chunks in one xorb, whole chunks only."""
        if xet_hash not in self._files:
            return None
        terms: list[dict[str, Any]] = []
        offset = first = 0
        for xorb, index, length in self._files[xet_hash]:
            if offset < end and offset + length > begin:
                first = offset if not terms else first
                if terms and terms[-1]["hash"] == xorb and terms[-1]["range"]["end"] == index:
                    terms[-1]["range"]["end"] += 1
                    terms[-1]["unpacked_length"] += length
                else:
                    terms.append({"hash": xorb, "unpacked_length": length, "range": {"start": index, "end": index + 1}})
            offset += length
        return {"offset_into_first_range": max(0, begin - first), "terms": terms, "fetch_info": {}}


@dataclass
class _Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, _Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """The Hub, while ``with``. Safe to use from several threads.

    ``xet`` turns Xet hashes and reconstructions on. ``tokens`` are accepted; any other token is answered with 401 everywhere, as the
    real Hub does. ``page_size`` is the number of entries in a page of a tree. ``requests`` is what was asked so far, ``wire_bytes``
    everything written back, headers included.
    """

    def __init__(self, tokens: tuple[str, ...] = ("hf_loopback",), page_size: int = 1000, xet: bool = False) -> None:
        self.tokens = tokens
        self.xet = _Xet() if xet else None
        self.page_size = page_size
        self.requests: list[Request] = []
        self.wire_bytes = 0
        self._repos: dict[str, _Repo] = {}
        self._faults: list[Fault] = []
        self._before: list[tuple[str, Callable[[], object]]] = []
        self._extra: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> LoopbackHub:
        self._servers = [_Server(self, storage=False), _Server(self, storage=True)]
        self.endpoint, self.storage = (server.origin for server in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        for server in self._servers:
            server.stop()

    def create(self, repo: str, *, private: bool = False, gated: bool = False) -> None:
        """Create a repository, or change who may see it."""
        with self._lock:
            made = self._repos.setdefault(repo, _Repo())
            made.private, made.gated = private, gated

    def commit(self, repo: str, files: Mapping[str, bytes | Path | None], branch: str = "main") -> str:
        """Put a commit with these files added, replaced or (None) removed on top of a branch, and return its 40-hex id."""
        with self._lock:
            made = self._repos.setdefault(repo, _Repo())
            parent = made.refs.get(branch, made.refs.get("main", ""))
            tree = dict(made.commits.get(parent, {}))
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = _Blob(content, path.lower().endswith(LFS_ENDINGS))
                    if self.xet is not None and tree[path].lfs:
                        self.xet.store(tree[path])
            body = "\n".join([repo, parent, *(f"{path} {blob.blob_id}" for path, blob in sorted(tree.items()))])
            sha = hashlib.sha1(body.encode()).hexdigest()
            made.commits[sha] = tree
            made.refs[branch] = sha
            return sha

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Name a commit; ``refs/pr/1`` makes a pull request's revision."""
        self._repos[repo].refs[name] = commit

    def list_also(self, repo: str, **entry: Any) -> None:
        """Add a raw entry to the repository's tree listings, whatever it is (a path such as ``../x``)."""
        self._extra.setdefault(repo, []).append({"type": "file", "size": 1, "oid": "0" * 40, **entry})

    def fault(
        self,
        kind: FaultKind,
        *,
        request: str = "*",
        repo: str = "*",
        path: str = "*",
        times: int | None = None,
        status: int = 500,
        seconds: float = 1.0,
    ) -> Fault:
        """Switch a defect on. Patterns are globs. It stays until it happened ``times``, or :meth:`heal`."""
        made = Fault(kind, request, repo, path, times, status, seconds)
        with self._lock:
            self._faults.append(made)
        return made

    def heal(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults.clear()

    def before(self, request: str, action: Callable[[], object]) -> None:
        """Run ``action`` once, just before the next request of that kind (info, tree, resolve, storage) is answered."""
        with self._lock:
            self._before.append((request, action))

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables with which a process uses this Hub, and a cache in ``home``, and nothing else."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": token or "",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def _take(self, kind: str, repo: str, path: str) -> list[Fault]:
        """The faults of this answer."""
        with self._lock:
            actions = [action for request, action in self._before if request == kind]
            self._before = [item for item in self._before if item[0] != kind]
        for action in actions:
            action()
        with self._lock:
            taken = []
            for fault in self._faults:
                wanted = ((fault.request, kind), (fault.repo, repo), (fault.path, path))
                if fault.times != 0 and all(fnmatch.fnmatchcase(value, pattern) for pattern, value in wanted):
                    taken.append(fault)
                    fault.times = None if fault.times is None else fault.times - 1
            return taken


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: LoopbackHub, *, storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _StorageHandler if storage else _HubHandler)
        self.hub = hub
        # Another host name, not only another port: huggingface_hub 1 tells hosts apart by name alone.
        self.origin = f"http://{'localhost' if storage else '127.0.0.1'}:{self.server_address[1]}"
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


class _Answer(Exception):
    """Ends a request with an error answer."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Requests are kept in LoopbackHub.requests."""

    def do_GET(self) -> None:
        self._kind, self._status, self._sent = "other", 0, 0
        self._faults: list[Fault] = []
        try:
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.route()
        except _Answer as answer:
            self._write(answer.status, b"", {name: value for name, value in answer.headers.items() if value})
        except OSError:
            self.close_connection = True
        finally:
            authorization = self.headers.get("Authorization") or ""
            token = authorization.removeprefix("Bearer ") or None
            range_ = self.headers.get("Range")
            with self.server.hub._lock:
                self.server.hub.requests.append(Request(self.command, self._kind, self.path, range_, token, self._status, self._sent))

    do_HEAD = do_GET
    do_POST = do_GET

    def route(self) -> None:
        raise NotImplementedError

    def begin(self, kind: str, repo: str, path: str) -> None:
        """Note what is asked, and apply the faults that need no answer's body."""
        self._kind = kind
        self._faults = self.server.hub._take(kind, repo, path)
        for fault in self._faults:
            if fault.kind == "status":
                raise _Answer(fault.status)
            if fault.kind == "rate-limit":
                raise _Answer(429, headers={"Retry-After": str(int(fault.seconds))})
            if fault.kind == "redirect-loop":
                raise _Answer(302, headers={"Location": self.path})
            if fault.kind == "drop":
                self.close_connection = True
                raise ConnectionAbortedError

    def faulty(self, kind: FaultKind) -> Fault | None:
        return next((fault for fault in self._faults if fault.kind == kind), None)

    def send_json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._write(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_content(self, blob: _Blob, headers: Mapping[str, str]) -> None:
        """The whole file or the range asked for, as the faults have it."""
        begin, end, status = 0, blob.size, 200
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = self.headers.get("Range")
        if asked and not self.faulty("ignore-range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last) + 1 if last else blob.size, blob.size), 206
            if begin >= blob.size:
                raise _Answer(416, headers={"Content-Range": f"bytes */{blob.size}"})
            if self.faulty("wrong-range") and end < blob.size:
                begin, end = begin + 1, end + 1
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
        if self.faulty("encoded"):
            headers["Content-Encoding"] = "gzip"
        if self.faulty("short"):
            end -= max(1, (end - begin) // 2)
        self._write(status, None, {**headers, "Content-Length": str(end - begin)})
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
            self._send(bytes(byte ^ 0xFF for byte in block) if self.faulty("wrong-bytes") else block)
            if slow and self.server.stopped.wait(slow.seconds):
                return

    def _write(self, status: int, body: bytes | None, headers: Mapping[str, str]) -> None:
        self._status = status
        lines = [f"HTTP/1.1 {status} {self.responses.get(status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        self.wfile.write(head)
        with self.server.hub._lock:
            self.server.hub.wire_bytes += len(head)
        if body and self.command != "HEAD":
            self._send(body)

    def _send(self, body: bytes) -> None:
        self.wfile.write(body)
        self._sent += len(body)
        with self.server.hub._lock:
            self.server.hub.wire_bytes += len(body)


class _HubHandler(_Handler):
    """The API, and ``/<repo>/resolve/<revision>/<path>``."""

    def route(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo, what, rest = "/".join(parts[2:4]), (parts[4] if len(parts) > 4 else "revision"), [unquote(part) for part in parts[5:]]
            self._api(repo, what, rest, query)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), unquote(parts[3]), unquote("/".join(parts[4:])))
        else:
            raise _Answer(404)

    def _api(self, repo: str, what: str, rest: list[str], query: Mapping[str, str]) -> None:
        self.begin({"revision": "info", "tree": "tree"}.get(what, what), repo, "/".join(rest[1:]))
        commit, tree = self._commit(repo, rest[0] if rest else "main")
        made = self.server.hub._repos[repo]
        if what == "revision":
            siblings = [{"rfilename": path} for path in sorted(tree)]
            info = {"id": repo, "modelId": repo, "sha": commit, "private": made.private, "gated": made.gated, "siblings": siblings}
            self.send_json({**info, "tags": [], "downloads": 0, "likes": 0})
        elif what == "tree":
            self._tree(repo, commit, tree, "/".join(rest[1:]), query)
        elif what == "paths-info":
            asked = parse_qs(self._body.decode()).get("paths", []) or json.loads(self._body or b"{}").get("paths", [])
            self.send_json([_described(path, tree[path]) for path in asked if path in tree])
        elif what == "refs":
            branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in sorted(made.refs.items())]
            self.send_json({"branches": branches, "tags": [], "converts": []})
        elif what == "xet-read-token" and self.server.hub.xet is not None:
            self.send_json({"casUrl": self.server.hub.storage, "accessToken": f"xet-{repo}", "exp": 2**31})
        else:
            raise _Answer(404)

    def _tree(self, repo: str, commit: str, tree: Mapping[str, _Blob], folder: str, query: Mapping[str, str]) -> None:
        prefix = folder.strip("/") + "/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(tree.items()):
            if not path.startswith(prefix):
                continue
            parents = [parent for parent in _parents(path) if parent.startswith(prefix)]
            for parent in parents if query.get("recursive", "").lower() == "true" else parents[:1]:
                entries.setdefault(
                    parent, {"type": "directory", "oid": hashlib.sha1(parent.encode()).hexdigest(), "size": 0, "path": parent}
                )
            if not parents or query.get("recursive", "").lower() == "true":
                entries[path] = _described(path, blob)
        if prefix and not entries:
            raise _Answer(404, "EntryNotFound")
        listing = [entries[path] for path in sorted(entries)] + self.server.hub._extra.get(repo, [])
        begin, size = int(query.get("cursor", "0")), int(query.get("limit") or self.server.hub.page_size)
        headers = {}
        if begin + size < len(listing):
            where = f"{self.server.origin}/api/models/{repo}/tree/{commit}/{quote(folder)}".rstrip("/")
            asked = "&".join(f"{name}={value}" for name, value in {**query, "cursor": str(begin + size)}.items())
            headers["Link"] = f'<{where}?{asked}>; rel="next"'
        self.send_json(listing[begin : begin + size], headers)

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        self.begin("resolve", repo, path)
        commit, tree = self._commit(repo, revision)
        shown = "f" * 40 if self.faulty("wrong-commit") else commit
        if path not in tree:
            raise _Answer(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": shown})
        blob = tree[path]
        etag = blob.etag
        if self.faulty("wrong-etag"):
            etag = hashlib.sha256(bytes(byte ^ 0xFF for byte in blob.read(0, blob.size))).hexdigest()
        headers = {"X-Repo-Commit": shown, "ETag": f'"{etag}"'}
        if not blob.lfs:
            self.send_content(blob, headers)
            return
        where = f"{self.server.hub.storage}/{quote(repo)}/{blob.sha256}/{quote(path)}?signature=secret"
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(blob.size), "Location": where}
        self._write(302, b"", {**headers, **linked})

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, _Blob]]:
        """The commit and tree a request may see. Errors carry the real Hub's X-Error-Code."""
        hub = self.server.hub
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            raise _Answer(401, message="Invalid credentials in Authorization header")
        made = hub._repos.get(repo)
        if made is None or (made.private and not token):
            raise _Answer(401 if not token else 404, "RepoNotFound", "Repository not found")
        if made.gated and self._kind != "info":
            raise _Answer(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        commit = made.refs.get(revision, revision)
        if commit not in made.commits:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, made.commits[commit]


class _StorageHandler(_Handler):
    """Where LFS files lie: ``/<org>/<name>/<sha256>/<path>``, to anybody who knows the address."""

    def route(self) -> None:
        if self.path.startswith("/v1/reconstructions/"):
            self._reconstruct(self.path.rsplit("/", 1)[1])
            return
        owner, name, sha256, *path = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.begin("storage", f"{owner}/{name}", "/".join(path))
        for tree in self.server.hub._repos[f"{owner}/{name}"].commits.values():
            for blob in tree.values():
                if blob.lfs and blob.sha256 == sha256:
                    self.send_content(blob, {"ETag": f'"{hashlib.md5(sha256.encode()).hexdigest()}"'})
                    return
        raise _Answer(404)

    def _reconstruct(self, xet_hash: str) -> None:
        self.begin("xet", "", "")
        if not (self.headers.get("Authorization") or "").startswith("Bearer xet-"):
            raise _Answer(401)
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        xet = self.server.hub.xet
        answer = xet.reconstruction(xet_hash, int(first), int(last) + 1 if last else 1 << 62) if xet is not None else None
        if answer is None:
            raise _Answer(404)
        self.send_json(answer)


def _described(path: str, blob: _Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.blob_id}
    if blob.xet_hash:
        entry["xetHash"] = blob.xet_hash
    return {**entry, "lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else entry


def _parents(path: str) -> list[str]:
    """Folders above ``path``, outermost first."""
    found = []
    while path := posixpath.dirname(path):
        found.append(path)
    return found[::-1]
