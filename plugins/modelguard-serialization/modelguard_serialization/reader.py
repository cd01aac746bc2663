"""The contract of a reader, and what it says what it found to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from modelguard import Artifact, Confidence, Finding, Location, Rule, Severity
from modelguard_serialization import limits
from modelguard_serialization.blob import Blob


class NotReadError(Exception):
    """A reader cannot go on; the text says why, in words that stand alone. Findings made before are kept, and the file is not looked at."""


@dataclass
class Look:
    """One file of the artifact while it is looked through: what readers found in it, and what they leave to others."""

    artifact: Artifact
    check: Callable[[], None]
    """Raises when the time is up. Call it at least every few thousand steps."""
    findings: list[Finding] = field(default_factory=list)
    inside: list[Blob] = field(default_factory=list)
    """Members that are to be looked at in their turn, as files of their own would be."""
    perhaps: list[Blob] = field(default_factory=list)
    """Stretches of a value that is data as it stands, such as a text in metadata. A reader that recognises one reads it; what none does
    is no gap."""
    missed: list[str] = field(default_factory=list)
    """What could not be read, and why."""
    unpacked: int = 0
    """Bytes that were decompressed so far. Who decompresses takes no more than ``room``, and adds what it took."""

    @property
    def room(self) -> int:
        """Bytes that may still be decompressed."""
        return max(0, limits.UNPACKED - self.unpacked)

    def find(
        self,
        rule: str,
        blob: Blob,
        message: str,
        *,
        severity: Severity | None = None,
        confidence: Confidence = Confidence.HIGH,
        at: int | None = None,
        evidence: Mapping[str, Any] | None = None,
        key: str = "",
    ) -> None:
        """A finding in ``blob``; ``message`` follows its place and a colon. ``at`` is a byte position in the blob.

        ``key`` tells findings of one rule in one file apart and is the same in every revision: say what was found, not where.
        """
        offset = None if at is None or blob.offset is None else blob.offset + at
        place = Location(blob.file, byte_offset=offset)
        inside = {"member": "!".join(blob.members)} if blob.members else {}
        self.findings.append(
            Finding(rule, f"{blob.place}: {message}", confidence, severity, place, {**inside, **(evidence or {})}, key=key)
        )

    def miss(self, blob: Blob, why: str) -> None:
        """``blob``, or a part of it, cannot be looked at: the whole file counts as not looked at. The rest of it still may be."""
        self.missed.append(f"{blob.place}: {why}" if blob.members else why)


def whole_text(blob: Blob) -> str:
    """All of ``blob`` as text, what is no UTF-8 replaced. Raises :class:`NotReadError` past :data:`limits.DOCUMENT`."""
    if len(blob.data) > limits.DOCUMENT:
        raise NotReadError(f"has {len(blob.data)} bytes, more than the {limits.DOCUMENT} that are read")
    return str(blob.data, "utf-8", "replace")


class Reader(ABC):
    """One kind of content. Stateless; a blob is given to every reader that recognises it, because a loader may take it for any of them."""

    what: ClassVar[str]
    """Completes the sentence "the file is ...": ``a Python pickle``."""
    rules: ClassVar[tuple[Rule, ...]] = ()
    format: ClassVar[str] = ""
    """The id of the format, where what it reads holds weights or a whole model (:class:`~modelguard.LookedAt`)."""

    def said(self, blob: Blob) -> str:
        """:attr:`what`, or of what holds many kinds the one that ``blob`` is."""
        return self.what

    @abstractmethod
    def recognise(self, blob: Blob) -> bool:
        """Whether some loader would take the bytes for this kind. By content; the name is a hint where content says nothing. Cheap."""

    @abstractmethod
    def read(self, blob: Blob, look: Look) -> None:
        """Look through all of ``blob``. Nothing it raises but :class:`NotReadError`, and what ``look.check`` raises, is expected.

        Members go to ``look.inside``; what cannot be read to ``look.miss``.
        """
