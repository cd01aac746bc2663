"""What a Hub answers: its API and file addresses, and the storage large files lie in."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from modelguard.testing.hub._content import Blob
from modelguard.testing.hub._faults import wrong
from modelguard.testing.hub._server import Answer, Handler


class HubHandler(Handler):
    """The API, and ``/<repo>/resolve/<revision>/<path>``."""

    def route(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if parts == ["api", "models"]:
            self._models(query)
            return
        before = 2 if parts[:2] == ["api", "models"] else 0
        words = 1 if parts[before] in self.server.hub.repos or parts[before] in self.server.hub.moved else 2
        repo, rest = "/".join(parts[before : before + words]), [unquote(part) for part in parts[before + words :]]
        if new := self.server.hub.moved.get(repo):
            raise Answer(307, headers={"Location": self.path.replace(repo, new, 1)})
        if before:
            self._api(repo, rest[0] if rest else "revision", rest[1:], query)
        elif len(rest) >= 3 and rest[0] == "resolve":
            self._resolve(repo, rest[1], "/".join(rest[2:]))
        else:
            raise Answer(404)

    def _models(self, query: Mapping[str, str]) -> None:
        """The repositories of an owner that anybody may see, with paging."""
        self.begin("models", query.get("author", ""), "")
        hub, owner = self.server.hub, query.get("author", "")
        listing = [
            {"id": name, "modelId": name} for name, held in sorted(hub.repos.items()) if name.startswith(f"{owner}/") and not held.private
        ]
        begin, size = int(query.get("cursor", "0")), min(int(query.get("limit") or hub.page_size), hub.page_size)
        headers = {}
        if begin + size < len(listing):
            asked = "&".join(f"{name}={value}" for name, value in {**query, "cursor": str(begin + size)}.items())
            headers["Link"] = f'<{self.server.origin}/api/models?{asked}>; rel="next"'
        self.send_json(listing[begin : begin + size], headers)

    def _api(self, repo: str, what: str, rest: list[str], query: Mapping[str, str]) -> None:
        hub, path = self.server.hub, "/".join(rest[1:])
        self.begin("info" if what == "revision" else what, repo, path)
        commit, tree = self._commit(repo, rest[0] if rest else "main")
        held = hub.repos[repo]
        if what == "revision":
            siblings = [{"rfilename": path} for path in sorted(tree)]
            info = {"id": repo, "modelId": repo, "sha": commit, "private": held.private, "gated": held.gated, "siblings": siblings}
            self.send_json({**info, "tags": [], "downloads": 0, "likes": 0})
        elif what == "tree":
            self._tree(repo, commit, tree, path, query)
        elif what == "paths-info":
            asked = parse_qs(self.body.decode()).get("paths", []) or json.loads(self.body or b"{}").get("paths", [])
            self.send_json([tree[path].entry(path) for path in asked if path in tree])
        elif what == "refs":
            branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in sorted(held.refs.items())]
            self.send_json({"branches": branches, "tags": [], "converts": []})
        elif what == "xet-read-token" and hub.xet is not None:
            self.send_json({"casUrl": hub.storage, "accessToken": f"xet-{repo}", "exp": 2**31})
        else:
            raise Answer(404)

    def _tree(self, repo: str, commit: str, tree: Mapping[str, Blob], folder: str, query: Mapping[str, str]) -> None:
        hub, prefix = self.server.hub, folder.strip("/") + "/" if folder else ""
        recursive = query.get("recursive", "").lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in tree.items():
            if not path.startswith(prefix):
                continue
            above = [parent for parent in accumulate(path.split("/")[:-1], posixpath.join) if parent.startswith(prefix)]
            for parent in above if recursive else above[:1]:
                oid = hashlib.sha1(parent.encode()).hexdigest()
                entries.setdefault(parent, {"type": "directory", "oid": oid, "size": 0, "path": parent})
            if recursive or not above:
                entries[path] = blob.entry(path)
        if prefix and not entries:
            raise Answer(404, "EntryNotFound")
        listing = [entries[path] for path in sorted(entries)] + hub.repos[repo].listed_also
        begin, size = int(query.get("cursor", "0")), int(query.get("limit") or hub.page_size)
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
            raise Answer(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": shown})
        blob = tree[path]
        etag = hashlib.sha256(wrong(blob.read(0, blob.size))).hexdigest() if self.faulty("wrong-etag") else blob.etag
        headers = {"X-Repo-Commit": shown, "ETag": f'"{etag}"'}
        if not blob.lfs:
            self.send_content(blob, headers)
            return
        where = f"{self.server.hub.storage}/{quote(repo)}/{blob.sha256}/{quote(path)}?signature=secret"
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(blob.size), "Location": where}
        self.write(302, b"", {**headers, **linked})

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]]:
        """The commit and tree a request may see. Errors carry the real Hub's X-Error-Code."""
        hub, token = self.server.hub, self.token()
        if token and token not in hub.tokens:
            raise Answer(401, message="Invalid credentials in Authorization header")
        held = hub.repos.get(repo)
        if held is None or (held.private and not token):
            raise Answer(404 if token else 401, "RepoNotFound", "Repository not found")
        if held.gated and self.kind != "info":
            raise Answer(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        commit = held.refs.get(revision, revision)
        if commit not in held.commits:
            raise Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, held.commits[commit]


class StorageHandler(Handler):
    """Where LFS files lie: ``/<repo>/<sha256>/<path>``, to anybody who knows the address. Xet reconstructions too, with a token."""

    def route(self) -> None:
        if self.path.startswith("/v1/reconstructions/"):
            self._reconstruct(self.path.rsplit("/", 1)[1])
            return
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        words = 1 if parts[0] in self.server.hub.repos else 2
        repo, sha256, path = "/".join(parts[:words]), parts[words], parts[words + 1 :]
        self.begin("storage", repo, "/".join(path))
        for tree in self.server.hub.repos[repo].commits.values():
            for blob in tree.values():
                if blob.lfs and blob.sha256 == sha256:
                    self.send_content(blob, {"ETag": f'"{hashlib.md5(sha256.encode()).hexdigest()}"'})
                    return
        raise Answer(404)

    def _reconstruct(self, xet_hash: str) -> None:
        self.begin("xet", "", "")
        if not (self.headers.get("Authorization") or "").startswith("Bearer xet-"):
            raise Answer(401)
        xet = self.server.hub.xet
        answer = xet.reconstruction(xet_hash, *self.asked_range(1 << 62)) if xet is not None else None
        if answer is None:
            raise Answer(404)
        self.send_json(answer)
