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
    """A model repository, a revision (None: the default branch) and a file or folder in it (empty: all of it).

    Old repositories have a single name (``gpt2``). A path in one of them is only written after a revision, ``hf://gpt2@main/config.json``:
    without one, ``hf://gpt2/config.json`` is the repository ``config.json`` of ``gpt2``.
    """

    repo_id: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, uri: str) -> HubUri:
        """Raises :class:`~modelguard.errors.UsageError` saying what is wrong with ``uri``."""
        kind, _, rest = uri.removeprefix("hf://").partition("/")
        if kind in _OTHER_TYPES:
            raise UsageError(uri, f"is one of the Hub's {kind}, not a model", "name a model: hf://org/name[@revision][/path]")
        owner, slash, tail = (kind, "/", rest) if kind != "models" else rest.partition("/")
        if "@" in owner or not (slash and tail):
            owner, tail = "", f"{owner}/{tail}" if tail else owner
        place, _, path = tail.partition("/")
        name, at, revision = place.partition("@")
        if at and (special := _SPECIAL.fullmatch(f"{revision}/{path}" if path else revision)):
            revision, path = special[1], special[2] or ""
        revision = unquote(revision)
        path = path.rstrip("/")
        if not name:
            raise UsageError(uri, "names no repository", "write hf://org/name[@revision][/path]")
        repo_id = f"{owner}/{name}" if owner else name
        if not all(map(_valid, repo_id.split("/"))) or len(repo_id) > 96:
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


_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/+([^?#]+)(?:[?#].*)?", re.IGNORECASE)
_SLIP = re.compile(r"hf:/?(?=[^/])", re.IGNORECASE)


def meant(text: str) -> str | None:
    """The Hub's URI for what may have been meant by the address of one of its pages, by ``hf:org/name`` or by ``org/name``, or None."""
    page = _PAGE.fullmatch(text)
    place = page[1] if page else _SLIP.sub("", text, count=1)
    if not page and (place.startswith(("/", "models/")) or ("/" not in place and "." in place)):
        return None  # a path
    parts = [part for part in place.split("/") if part]
    at = next((index for index, part in enumerate(parts[:4]) if index and part in ("tree", "blob", "resolve", "commit")), None)
    if page and at is not None and len(parts) > at + 1:
        parts = [*parts[: at - 1], f"{parts[at - 1]}@{parts[at + 1]}", *parts[at + 2 :]]
    elif not page and len(parts) > 2 and "@" not in place:
        return None
    uri = "hf://" + "/".join(parts)
    try:
        HubUri.parse(uri)
    except UsageError:
        return None
    return uri


def _valid(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")
