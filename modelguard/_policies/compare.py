"""Two reports of one artifact beside each other: what is new, gone or changed, and so what a baseline knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelguard.errors import UsageError
from modelguard.findings import Finding
from modelguard.report import Report, Status

Pair = tuple[str, Finding]
"""A detector's id, and a finding of it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One finding in both reports, that now says something else: ``what`` names what of it, such as ``severity medium -> high``."""

    detector: str
    before: Finding
    after: Finding
    what: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Whether it is now more severe, or surer."""
        return _worse(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of the findings. ``gone`` are those whose detector completed; of ``unseen`` nobody knows, because it did not.

    ``unlooked`` are detectors and files that were looked at then and are not now, ``still`` those that were not and are not,
    ``looked`` those that were not and are.
    """

    new: tuple[Pair, ...]
    gone: tuple[Pair, ...]
    unseen: tuple[Pair, ...]
    changed: tuple[Change, ...]
    same: tuple[Pair, ...]
    unlooked: tuple[str, ...]
    still: tuple[str, ...]
    looked: tuple[str, ...]


def compare(old: Report, new: Report) -> Comparison:
    """Findings are paired by fingerprint; of several with one, the most severe with the most severe.

    Raises :class:`UsageError` for reports of two artifacts, whose fingerprints have nothing to do with each other, and for one of an
    artifact that could not be read.
    """
    for report, name in ((old, "the earlier report"), (new, "the later report")):
        if report.failure:
            raise UsageError(name, f"its artifact was not read ({report.failure}), so it knows nothing", "give another report")
    check_same(old, new.target.identity)
    before, after = _by_fingerprint(old), _by_fingerprint(new)
    fresh: list[Pair] = []
    same: list[Pair] = []
    changed: list[Change] = []
    lost: list[Pair] = []
    for name, found in after.items():
        known = before.get(name, [])
        for (_, then), (detector, now) in zip(known, found, strict=False):
            what = _differences(then, now)
            if what:
                changed.append(Change(detector, then, now, what))
            else:
                same.append((detector, now))
        fresh += found[len(known) :]
    for name, known in before.items():
        lost += known[len(after.get(name, [])) :]
    completed = {item.detector for item in new.outcomes if item.status is Status.COMPLETED}
    gaps_then, gaps_now = _gaps(old), _gaps(new)
    return Comparison(
        new=tuple(fresh),
        gone=tuple(pair for pair in lost if pair[0] in completed),
        unseen=tuple(pair for pair in lost if pair[0] not in completed),
        changed=tuple(changed),
        same=tuple(same),
        unlooked=tuple(sorted(gaps_now - gaps_then)),
        still=tuple(sorted(gaps_now & gaps_then)),
        looked=tuple(sorted(gaps_then - gaps_now)),
    )


def check_same(earlier: Report, identity: str) -> None:
    """Raises :class:`UsageError` unless ``earlier`` is about the artifact called ``identity``: fingerprints of two never match."""
    if earlier.target.identity != identity:
        remedy = "give a report of the same artifact; --identity gives one a name that stays"
        raise UsageError("the earlier report", f"is about {earlier.target.identity}, not about {identity}", remedy)


def known_findings(baseline: Report, report: Report) -> tuple[list[Finding], list[Change]]:
    """The findings of ``report`` that ``baseline`` knows; and those it knows in another form, which are to be looked at again.

    Known is what says the same, or lies in a file whose bytes are the same and is neither more severe now nor surer. A fingerprint alone
    would let a second edit of a tensor pass for the first.
    """
    compared = compare(baseline, report)
    then = {file.path: file.sha256 for file in baseline.target.files}
    now = {file.path: file.sha256 for file in report.target.files}

    def untouched(finding: Finding) -> bool:
        paths = [finding.location.file] if finding.location.file is not None else [*now]
        whole = finding.location.file is not None or then == now
        return whole and all(now.get(path) is not None and now.get(path) == then.get(path) for path in paths)

    same = [finding for _, finding in compared.same]
    same += [item.after for item in compared.changed if not item.worse and untouched(item.after)]
    kept = {id(finding) for finding in same}
    return same, [item for item in compared.changed if id(item.after) not in kept]


def _by_fingerprint(report: Report) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for detector, finding in report.findings():
        found.setdefault(finding.fingerprint, []).append((detector, finding))
    for pairs in found.values():
        pairs.sort(key=lambda pair: (pair[1].severity or 0, pair[1].confidence), reverse=True)
    return found


def _worse(then: Finding, now: Finding) -> bool:
    return (now.severity or 0) > (then.severity or 0) or now.confidence > then.confidence


def _differences(then: Finding, now: Finding) -> tuple[str, ...]:
    what = []
    if then.severity is not None and now.severity is not None and then.severity != now.severity:
        what.append(f"severity {then.severity.label} -> {now.severity.label}")
    if then.confidence != now.confidence:
        what.append(f"confidence {then.confidence.label} -> {now.confidence.label}")
    if then.message != now.message:
        what.append("message")
    if dict(then.evidence) != dict(now.evidence):
        what.append("evidence: " + ", ".join(_keys(then, now)))
    return tuple(what)


def _keys(then: Finding, now: Finding) -> Iterable[str]:
    missing = object()
    return [name for name in sorted({*then.evidence, *now.evidence}) if then.evidence.get(name, missing) != now.evidence.get(name, missing)]


def _gaps(report: Report) -> set[str]:
    """Detectors that did not look to the end, and files that nobody read to theirs."""
    detectors = {f"detector {item.detector}" for item in report.outcomes if item.status is not Status.COMPLETED}
    return (
        detectors | {f"file {path}" for path in report.target.unread} | {f"plugin {item.distribution}" for item in report.plugin_failures}
    )
