"""What a detector of language models said, kept with the target for those that combine detectors: no search is made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelguard import DeadlineExceeded, Finding, Skip

if TYPE_CHECKING:
    from modelguard import Detector, ScanContext, Target


@dataclass(frozen=True)
class Heard:
    """The ``findings`` and ``summary`` of a search, and what ended it early, if anything did."""

    findings: tuple[Finding, ...]
    summary: Mapping[str, Any]
    ended: Skip | DeadlineExceeded | None

    def told(self, context: ScanContext) -> Iterator[Finding]:
        """All of it again, as ``detect`` tells it."""
        context.summary(**self.summary)
        yield from self.findings
        if self.ended is not None:
            raise self.ended


def heard(detector: Detector, target: Target, context: ScanContext, search: Callable[[], Iterator[Finding]]) -> Heard:
    """What ``search`` finds, made once for the options of ``detector``."""

    def listen() -> Heard:
        findings: list[Finding] = []
        ended: Skip | DeadlineExceeded | None = None
        try:
            findings.extend(search())
        except (Skip, DeadlineExceeded) as reason:
            ended = reason
        return Heard(tuple(findings), context.numbers, ended)

    return target.memo(detector, context, listen)
