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

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelguard.testing.hub._content import LFS_ENDINGS, Blob, Repo
from modelguard.testing.hub._faults import Fault, FaultKind
from modelguard.testing.hub._handlers import HubHandler, StorageHandler
from modelguard.testing.hub._server import Server
from modelguard.testing.hub._state import Request, State

__all__ = ["Fault", "FaultKind", "LoopbackHub", "Request"]


class LoopbackHub(State):
    """The Hub, while ``with``. Safe to use from several threads.

    ``xet`` turns Xet hashes and reconstructions on. ``tokens`` are accepted; any other token is answered with 401 everywhere, as the
    real Hub does. ``moved`` are old names of repositories and their new ones. ``page_size`` is the number of
    entries in a page of a tree. ``requests`` is what was asked so far, ``wire_bytes`` everything written back, headers included.
    """

    def __enter__(self) -> LoopbackHub:
        # Another host name, not only another port: huggingface_hub 1 tells hosts apart by name alone.
        self._servers = [Server(self, HubHandler, "127.0.0.1"), Server(self, StorageHandler, "localhost")]
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
        with self.lock:
            held = self.repos.setdefault(repo, Repo())
            held.private, held.gated = private, gated

    def commit(self, repo: str, files: Mapping[str, bytes | Path | None], branch: str = "main") -> str:
        """Put a commit with these files added, replaced or (None) removed on top of a branch, and return its 40-hex id."""
        with self.lock:
            held = self.repos.setdefault(repo, Repo())
            parent = held.refs.get(branch, held.refs.get("main", ""))
            tree = dict(held.commits.get(parent, {}))
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = Blob(content, path.lower().endswith(LFS_ENDINGS))
                    if self.xet is not None and tree[path].lfs:
                        self.xet.store(tree[path])
            body = "\n".join([repo, parent, *(f"{path} {blob.blob_id}" for path, blob in sorted(tree.items()))])
            sha = hashlib.sha1(body.encode()).hexdigest()
            held.commits[sha] = tree
            held.refs[branch] = sha
            return sha

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Name a commit; ``refs/pr/1`` makes a pull request's revision."""
        self.repos[repo].refs[name] = commit

    def list_also(self, repo: str, **entry: Any) -> None:
        """Add a raw entry to the repository's tree listings, whatever it is (a path such as ``../x``)."""
        self.repos.setdefault(repo, Repo()).listed_also.append({"type": "file", "size": 1, "oid": "0" * 40, **entry})

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
        self.faults.add(made)
        return made

    def heal(self) -> None:
        """Switch all faults off."""
        self.faults.clear()

    def before(self, request: str, action: Callable[[], object]) -> None:
        """Run ``action`` once, just before the next request of that kind (info, tree, resolve, storage) is answered."""
        self.faults.before(request, action)

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
