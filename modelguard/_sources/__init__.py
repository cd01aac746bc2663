"""Where artifacts come from: the sources modelguard ships, and how a target's URI picks one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from modelguard.artifact import Artifact, Source, SourceContext
from modelguard.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def builtin_sources() -> tuple[type[Source], ...]:
    """The sources in the core: local paths and the Hugging Face Hub."""
    from modelguard._sources.local import LocalSource

    return (LocalSource, _Hub)


class _Hub(Source):
    """The Hub's source, which is imported once something is fetched from there: most scans are of local files."""

    scheme: ClassVar[str] = "hf"

    def __new__(cls) -> Any:
        from modelguard._sources.hub import HubSource

        return HubSource()

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        raise NotImplementedError  # no instance is ever made: __new__ gives one of the real class


def resolve_source(uri: str, sources: Iterable[type[Source]]) -> tuple[Source, str]:
    """The source that ``uri``'s scheme belongs to, and the URI it takes. A URI without ``scheme://`` is a local path.

    Raises :class:`~modelguard.errors.UsageError` for an empty URI, ``-``, and for a scheme no source has.
    """
    if not uri:
        raise UsageError("target", "is empty", "name a file, a directory or hf://org/name@revision")
    if uri == "-":
        raise UsageError("-", "standard input cannot be scanned", "save it to a file, or write ./- for a file of that name")
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    known = {source.scheme: source for source in sources}
    if scheme not in known:
        from modelguard._sources.hub_uri import meant

        schemes = ", ".join(f"{name}://" for name in sorted(known) if name) or "none"
        hub = meant(uri)
        raise UsageError(uri, f"no source handles {scheme}://", f"write {hub}" if hub else f"use a path, or one of: {schemes}")
    return known[scheme](), scheme + uri[len(scheme) :]


def refuse_missing(uri: str) -> None:
    """Raises :class:`~modelguard.errors.UsageError` for a local path that leads nowhere, naming the model on the Hub that may be meant."""
    if not uri or uri == "-" or _SCHEME.match(uri):
        return
    try:
        os.lstat(uri)
    except (FileNotFoundError, NotADirectoryError):
        from modelguard._sources.hub_uri import meant

        hub = meant(uri)
        remedy = f"for the model on the Hugging Face Hub write {hub}" if hub else "check the path"
        raise UsageError(uri, "there is no such file or folder", remedy) from None
    except (OSError, ValueError):
        return  # what is wrong with it is said when it is opened
