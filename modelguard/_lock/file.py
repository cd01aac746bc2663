"""The lock file: read strictly, as a policy is; written so that comments and order stay as somebody put them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from modelguard import _limits
from modelguard._policies.read import line_of, read_yaml, validated
from modelguard._reporters.output import write_atomically
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.paths import normal_path, unsafe_path
from modelguard.errors import PolicyError, UsageError

DEFAULT = "modelguard.lock"
HEAD = """\
# Written by `modelguard lock`; commit it. `modelguard scan --lock` scans what it pins, `modelguard lock update NAME` moves a pin.
version: 1
models: {}
"""


def _hub_uri(value: str) -> str:
    if not value.startswith("hf://"):
        raise ValueError("must be hf://org/name[@revision][/path]")
    try:
        HubUri.parse(value)
    except UsageError as error:
        raise ValueError(error.cause) from None
    return value


def _path(value: str) -> str:
    if unsafe_path(value) or normal_path(value) != value:
        raise ValueError(f"{value!r} is no path inside a repository")
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LockedFile(_Part):
    """One file: bytes, and the digest of them."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class LockedModel(_Part):
    """One model: where it comes from, and what it is."""

    uri: Annotated[str, AfterValidator(_hub_uri)]
    commit: Commit
    licence: Line | None = None
    base_model: Line | None = None
    policy: Line | None = None
    reference: Line | None = None
    files: Annotated[dict[Annotated[str, AfterValidator(_path)], LockedFile], Field(min_length=1)]

    @property
    def pinned(self) -> str:
        """The URI of the very commit."""
        return HubUri.parse(self.uri).at(self.commit)


class _File(_Part):
    version: Literal[1]
    models: dict[Name, LockedModel]


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file as it was read. ``lines`` says where each model is named (1-based)."""

    path: Path
    text: str
    models: Mapping[str, LockedModel]
    lines: Mapping[str, int]

    def chosen(self, names: tuple[str, ...]) -> dict[str, LockedModel]:
        """The models called ``names``, all for none. Raises :class:`UsageError` for a name that is not in the lock, and for no model."""
        for name in names:
            if name not in self.models:
                known = ", ".join(self.models) or "none"
                raise UsageError(f"{self.path}: {name}", "is not in the lock", f"it has {known}; `modelguard lock add URI --name {name}`")
        if not self.models:
            raise UsageError(str(self.path), "names no model", "`modelguard lock add hf://org/name@tag --name NAME` adds one")
        return {name: model for name, model in self.models.items() if not names or name in names}

    def beside(self, value: str) -> str:
        """A policy or reference of the lock, which may be a path relative to the lock's own folder."""
        return value if value.startswith("builtin:") or "://" in value else os.path.join(self.path.parent, value)

    def policy(self, model: LockedModel) -> str | None:
        return None if model.policy is None else self.beside(model.policy)

    def base_of(self, model: LockedModel) -> str | None:
        """The commit of the base model that a model's card claims, where the lock has it."""
        claims = (model.base_model or "").split()
        return next((item.pinned for item in self.models.values() if HubUri.parse(item.uri).repo_id in claims), None)

    def reference(self, model: LockedModel) -> str | None:
        return None if model.reference is None else self.beside(model.reference)


def read_lock(path: Path) -> Lock:
    """Read a lock file. Raises :class:`UsageError` naming the line."""
    try:
        with path.open("rb") as handle:
            body = handle.read(_limits.LOCK_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UsageError(str(path), cause, "`modelguard lock add hf://org/name@tag --name NAME` makes one") from error
    if len(body) > _limits.LOCK_BYTES:
        raise UsageError(str(path), f"is larger than {_limits.LOCK_BYTES} bytes", "split it")
    try:
        return parse_lock(path, body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(str(path), f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None


def parse_lock(path: Path, text: str) -> Lock:
    """As :func:`read_lock`, of the text of a file."""
    try:
        data, node = read_yaml(text, str(path))
        document = validated(_File, data, node, str(path), "docs/lock.md describes the file")
    except PolicyError as error:
        raise UsageError(error.thing, error.cause, error.remedy) from None
    return Lock(path, text, document.models, {name: line_of(node, ("models", name)) for name in document.models})


def written(lock: Lock, name: str, model: LockedModel) -> Lock:
    """The lock with ``name`` set to ``model``, on disk too; everything else stays as it is written. Raises :class:`OutputError`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML(typ="rt")
    yaml.width = 1 << 20
    yaml.preserve_quotes = True
    document: Any = yaml.load(lock.text)
    entry = document["models"].get(name)
    if entry is None:
        entry = document["models"][name] = CommentedMap()
        document["models"].fa.set_block_style()
    for key, value in model.model_dump(mode="json", exclude={"files"}).items():
        if value is not None:
            entry[key] = value
        else:
            entry.pop(key, None)
    files = entry.get("files")
    if files is None:
        files = entry["files"] = CommentedMap()
    for path in [path for path in files if path not in model.files]:
        del files[path]
    for path, file in sorted(model.files.items()):
        if path not in files or dict(files[path]) != file.model_dump():
            files[path] = CommentedMap(file.model_dump())
            files[path].fa.set_flow_style()
    stream = io.StringIO()
    yaml.dump(document, stream)
    new = parse_lock(lock.path, stream.getvalue())
    assert new.models == {**lock.models, name: model}, "what is written is what is meant"
    write_atomically(lock.path, new.text)
    return new
