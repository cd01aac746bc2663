"""Which models a fleet is: a file that lists them, an organisation of the Hub, or a lock."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelguard import _limits
from modelguard._lock.file import read_lock
from modelguard._sources.hub import HubSource
from modelguard._sources.hub_uri import HubUri
from modelguard._sources.session import Session, explain
from modelguard.artifact import FileStamp
from modelguard.errors import ModelguardError, UsageError

MOST = 10_000_000
"""Bytes of a file of targets."""


@dataclass(frozen=True, slots=True)
class FleetTarget:
    """One model. ``lock`` is the file it is pinned in, under ``name``; both are empty for a model that is only listed.

    ``state`` is another once a lock pins another commit, or a file of a local model was touched. A name on the Hub that is not pinned has
    none: the row of such a model says which commit was scanned.
    """

    uri: str
    name: str = ""
    lock: str = ""
    state: str = ""

    @property
    def key(self) -> str:
        """What tells it from every other target of a fleet."""
        return f"{self.name}={self.uri}" if self.name else self.uri

    @property
    def entry(self) -> str:
        """What the journal has it under, so that nothing is taken for done that is no longer what was scanned."""
        return f"{self.key} {self.state}"


def _state(path: Path) -> str:
    """A digest of what the operating system says of every file of a local model."""
    files = [path] if not path.is_dir() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    said = []
    for file in sorted(files):
        with contextlib.suppress(OSError, ValueError):
            said.append(f"{file} {FileStamp.in_stat(file.stat())}")
    return hashlib.sha256("\n".join(said).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_targets(asked: Iterable[str]) -> list[FleetTarget]:
    """Every model that is meant, once, in order. Raises :class:`UsageError`, and :class:`~modelguard.errors.SourceError` where the Hub
    does not say what an organisation has."""
    found: dict[str, FleetTarget] = {}
    for item in asked:
        for target in _meant(item):
            found.setdefault(target.key, target)
    return list(found.values())


def _meant(item: str) -> Iterator[FleetTarget]:
    if item.startswith("hf://"):
        yield from _hub(item)
    elif item.endswith(".lock"):
        lock = read_lock(Path(item))
        yield from (FleetTarget(model.uri, name, str(lock.path), model.pinned) for name, model in lock.chosen(()).items())
    else:
        for line in _lines(Path(item)):
            yield from _hub(line) if line.startswith("hf://") else [FleetTarget(line, state=_state(Path(line)))]


def _lines(path: Path) -> list[str]:
    """The lines of a file that name something; ``#`` begins a comment."""
    remedy = "name a file with a model a line, hf://org/*, or a lock (*.lock)"
    try:
        if path.is_dir():
            raise UsageError(f"fleet {path}", "is a folder", remedy + "; `modelguard scan` takes one model")
        with open(path, "rb") as file:
            body = file.read(MOST + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"fleet {path}", f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from error
    if len(body) > MOST or b"\0" in body:
        raise UsageError(f"fleet {path}", f"is no list of models of at most {MOST} bytes", remedy)
    try:
        lines = body.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"fleet {path}", f"is not UTF-8 (byte {error.start})", remedy) from None
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    long = [line for line in named if len(line) > _limits.PATH]
    if long:
        raise UsageError(f"fleet {path}", f"has a line of {len(long[0])} characters", remedy)
    return named


def _hub(uri: str) -> Iterator[FleetTarget]:
    owner, slash, pattern = uri.removeprefix("hf://").removeprefix("models/").partition("/")
    if "*" not in uri:
        HubUri.parse(uri)
        yield FleetTarget(uri)
        return
    if "*" in owner or not owner or not slash or "/" in pattern or "@" in pattern:
        raise UsageError(uri, "does not say which models are meant", "write hf://org/* for all of an organisation, or hf://org/bert-*")
    yield from (FleetTarget(f"hf://{name}") for name in _of(uri, owner) if fnmatch.fnmatchcase(name.partition("/")[2], pattern))


def _of(uri: str, owner: str) -> list[str]:
    """The models of an organisation that the token may see, by name."""
    hub = HubSource()
    if hub.offline:
        raise UsageError(uri, "is what the Hub says it is, and offline nobody asks", "list the models in a file")
    from huggingface_hub import HfApi

    with Session(uri, hub.endpoint, hub.patience) as session:
        session.attach()
        try:
            found = list(HfApi(endpoint=hub.endpoint, token=hub.token, library_name="modelguard").list_models(author=owner))
        except ModelguardError:
            raise
        except Exception as error:
            raise explain(uri, error) from error
    return sorted(str(item.id) for item in found)
