"""``hf://org/name[@revision][/path]``: how a place on the Hugging Face Hub is named (huggingface_hub's own grammar, models only)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from modelguard._sources.paths import normal_path, unsafe_path
from modelguard.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_](?:[\w.-]*\w)?", re.ASCII)
_OTHER_TYPES = ("datasets", "spaces", "kernels", "buckets")
# Revisions with a slash that may be written plainly, as huggingface_hub's parse_hf_uri has them; in others it is written %2F.
_SPECIAL = re.compile(r"(refs/pr/\d+|refs/convert/[\w.-]+)(?:/(.*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubUri:
    """A model repository, a revision (None: the default branch) and a file or folder in it (empty: all of it)."""

    repo_id: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, uri: str) -> HubUri:
        """Raises :class:`~modelguard.errors.UsageError` saying what is wrong with ``uri``."""
        kind, _, rest = uri.removeprefix("hf://").partition("/")
        if kind in _OTHER_TYPES:
            raise UsageError(uri, f"is one of the Hub's {kind}, not a model", "name a model: hf://org/name[@revision][/path]")
        owner, tail = (kind, rest) if kind != "models" else (rest.partition("/")[0], rest.partition("/")[2])
        place, _, path = tail.partition("/")
        name, at, revision = place.partition("@")
        if at and (special := _SPECIAL.fullmatch(f"{revision}/{path}" if path else revision)):
            revision, path = special[1], special[2] or ""
        revision = unquote(revision)
        path = path.rstrip("/")
        if not name:
            raise UsageError(uri, "names no repository", "write hf://org/name[@revision][/path]")
        repo_id = f"{owner}/{name}"
        if not _valid(owner) or not _valid(name) or len(repo_id) > 96:
            raise UsageError(uri, f"{repo_id!r} is not a repository name", "write hf://org/name[@revision][/path]")
        if at and (not revision or unsafe_path(revision)):
            raise UsageError(uri, f"{revision!r} is not a revision", "name a branch, a tag or a commit, a slash in it written %2F")
        if path and (reason := unsafe_path(path)):
            raise UsageError(uri, f"its path {reason}", "name a file or folder of the repository")
        return cls(repo_id, revision or None, normal_path(path) if path else "")

    def at(self, commit: str) -> str:
        """The URI of the same place at a commit."""
        return f"hf://{self.repo_id}@{commit}" + (f"/{self.path}" if self.path else "")

    @property
    def reading(self) -> str:
        """How revision and path were told apart, where a revision that has a slash may have been meant; empty elsewhere."""
        if self.revision is None or not self.path or self.revision.startswith("refs/"):
            return ""
        meant = quote(f"{self.revision}/{self.path}", safe="")
        return (
            f"{self.revision!r} was taken for the revision and {self.path!r} for a path in it; "
            f"if the revision has a slash, write hf://{self.repo_id}@{meant} (%2F for each)"
        )


def _valid(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")
