"""``executable-content``: what would run when somebody loads the artifact?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelguard import ArtifactError, ArtifactFile, Capability, DeadlineExceeded, Detector, Finding, ScanContext, Severity, Target
from modelguard_serialization import _archive_rules, _format_rules, _onnx_rules, limits
from modelguard_serialization._code import rules as _code_rules
from modelguard_serialization._measures import SHOWS
from modelguard_serialization._pickle import rules as _pickle_rules
from modelguard_serialization._readers._table import recognising
from modelguard_serialization._templates import rules as _template_rules
from modelguard_serialization.blob import Blob, without_read_ahead
from modelguard_serialization.reader import Look, NotReadError, Reader

_PARTS = (_archive_rules, _code_rules, _format_rules, _onnx_rules, _pickle_rules, _template_rules)
RULES = tuple(sorted((rule for part in _PARTS for rule in part.RULES), key=lambda rule: rule.id))
_SEVERITY = {rule.id: rule.severity for rule in RULES}


@dataclass(frozen=True)
class ExecutableContent(Detector):
    """Gives every file, and every member of an archive, to each reader that recognises it.

    The score is the highest severity found, from 0 (nothing, or information) to 4 (critical).
    """

    id = "executable-content"
    requires = frozenset({Capability.FILES})
    rules = RULES
    shows = SHOWS

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        worst = Severity.INFO
        kinds: Counter[str] = Counter()
        files = target.artifact.files
        for done, file in enumerate(files):
            context.check_deadline()
            context.progress(done, len(files), file.path)
            look = Look(target.artifact, context.check_deadline)
            try:
                whole = _whole(file)
                by = _look_through(whole, look) if whole is not None else []
            finally:
                for finding in _first(look.findings):
                    worst = max(worst, finding.severity if finding.severity is not None else _SEVERITY[finding.rule])
                    yield finding
            if whole is not None and by:
                kinds.update(reader.what for reader in by)
                missed = look.missed[0] + (f" (and {len(look.missed) - 1} more)" if len(look.missed) > 1 else "") if look.missed else ""
                what = " and ".join(reader.said(whole) for reader in by)
                context.looked_at(file.path, what, format=next((reader.format for reader in by if reader.format), ""), missed=missed)
        context.summary(score=float(worst), kinds=dict(sorted(kinds.items())))


def _whole(file: ArtifactFile) -> Blob | None:
    """All of a file; None where there is nothing in it, or where it cannot be read, which format-integrity says."""
    try:
        return Blob(file.path, file.map()) if file.size else None
    except ArtifactError:
        return None


def _look_through(whole: Blob, look: Look) -> list[Reader]:
    """The readers that recognised the file itself, once all that is in it has been looked through."""
    by = _read(whole, look)
    count = unpacked = 0
    while look.inside or look.perhaps:
        certain = bool(look.inside)
        blob = look.inside.pop() if certain else look.perhaps.pop()
        count += 1
        unpacked += 0 if blob.offset is not None else len(blob.data)
        look.check()
        if count > limits.MEMBERS or unpacked > limits.UNPACKED or len(blob.members) > limits.DEPTH:
            look.miss(blob, "is past the limits on members, unpacked bytes or depth")
            look.inside.clear()
            look.perhaps.clear()
        elif len(blob.data) and not _read(blob, look) and certain:
            look.miss(blob, "is of no kind that is known")
    return by


def _read(blob: Blob, look: Look) -> list[Reader]:
    with without_read_ahead(blob.data):
        by = recognising(blob)
    for reader in by:
        try:
            reader.read(blob, look)
        except NotReadError as error:
            look.miss(blob, str(error))
        except (DeadlineExceeded, MemoryError):
            raise
        except Exception as error:  # hostile bytes that break one reader must not keep the others from looking
            look.miss(blob, f"reading it as {reader.what} failed ({type(error).__name__})")
    return by


def _first(findings: list[Finding]) -> Iterator[Finding]:
    """The first findings of each rule, and one for all that follow."""
    counts: Counter[str] = Counter()
    rest: dict[str, Finding] = {}
    for finding in findings:
        counts[finding.rule] += 1
        if counts[finding.rule] <= limits.FINDINGS:
            yield finding
        else:
            rest.setdefault(finding.rule, finding)
    for rule, finding in sorted(rest.items()):
        more = counts[rule] - limits.FINDINGS
        yield replace(finding, message=f"{more} more findings of this rule in the file; the first: {finding.message}", key="more")
