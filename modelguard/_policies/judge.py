"""The judgement: a report and a policy in, a decision out. Pure, so a stored report can be judged again."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from modelguard._policies import catalogue
from modelguard._policies import rules as judgement
from modelguard._policies.compare import check_same, known_findings
from modelguard._policies.model import Match, Policy, glob_matches
from modelguard.findings import Finding, Severity
from modelguard.report import CORE, Decision, Outcome, Report, Status, Verdict, Violation, Waived

EXPIRY_NOTICE = datetime.timedelta(days=14)
"""How long before a waiver expires a decision begins to say so."""

CODE_ENDINGS = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")
"""Files beside the weights that a loader told to trust remote code would run."""


@dataclass
class _Ledger:
    """What has been decided so far."""

    violations: list[Violation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    waived: list[Waived] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)


def evaluate(report: Report, policy: Policy, today: datetime.date, baseline: Report | None = None) -> Decision:
    """Judge ``report`` by the resolved ``policy`` on the date ``today`` (UTC).

    The steps, in this order; nothing a later step says takes back an earlier one:

    (1) the source: could it be read, and does the policy accept it; (2) were all plugins that took part allowed, and did any fail;
    (3) did every required detector complete, and every other that began and is not optional; (4) waivers; (5) rules, the first match
    deciding, ``default`` where none matches; (6) the verdict: block if anything blocks, else incomplete if anything was not looked at,
    else pass.

    Findings that the earlier report ``baseline`` knows neither block nor warn: they are ``known``. What was not looked at then and is not
    now leaves no verdict all the same, and is called known. Raises :class:`~modelguard.errors.UsageError` where
    the policy accepts no baseline, and for one of another artifact.

    A report is in order and its severities are settled from the moment it is made, so one made by hand is judged as a stored one is.
    """
    if baseline is not None:
        policy.check_baseline(baseline)
    known, changed = _against(baseline, report)
    ledger = _Ledger()
    ledger.violations += _source(report, policy)  # (1)
    _plugins(report, policy, ledger)  # (2)
    _completeness(report, policy, ledger)  # (3)
    for detector, finding in report.findings():
        if not _waived(report, finding, policy, today, ledger):  # (4)
            _ruled(report, detector, finding, policy, ledger, is_known=id(finding) in known, was=changed.get(id(finding), ""))  # (5)
    if baseline is not None:
        _mark_known_gaps(ledger, evaluate(baseline, policy, today))
        ledger.notes.append(f"judged against a baseline; findings that are known from it and do not count: {len(ledger.known)}")
    unread = Verdict.INCOMPLETE if ledger.violations else Verdict.PASS
    verdict = Verdict.BLOCK if any(item.blocks for item in ledger.violations) else unread  # (6)
    return Decision(
        verdict=verdict,
        violations=tuple(ledger.violations),
        warnings=tuple(ledger.warnings),
        waived=tuple(ledger.waived),
        notes=tuple(dict.fromkeys(ledger.notes)),
        enforced=policy.mode == "enforce",
        known=tuple(dict.fromkeys(ledger.known)),
    )


def _source(report: Report, policy: Policy) -> Iterator[Violation]:
    target, sources = report.target, policy.sources
    subject = target.identity or target.uri

    def refused(message: str) -> Violation:
        return Violation("source", subject, message, blocks=True, rule=judgement.SOURCE_REFUSED.id)

    def unread(message: str) -> Violation:
        return Violation("source", subject, message, blocks=False, rule=judgement.SOURCE_UNREAD.id)

    if sources.allow is not None and not _allowed(target.uri, sources.allow):
        yield refused(f"{target.uri} is not an allowed source (sources.allow: {', '.join(sources.allow)})")
    if report.failure:
        yield unread(report.failure)
    elif not target.format:
        yield unread(f"{target.uri} holds no checkpoint in a format that is known here; its weights were not looked at")
    for item in report.lock.differences if report.lock is not None else ():
        yield Violation("source", item.subject, f"{item.subject}: {item.message}", blocks=item.blocks, rule=item.rule)
    if sources.pinned and "://" in target.uri and not _pinned(target.uri, target.revision):
        commit = f"; name the commit it was scanned at: {target.revision}" if target.revision else ""
        yield refused(f"{target.uri} does not name a full 40-hex commit, so it can change (sources.pinned){commit}")
    if sources.formats is not None and (strange := sorted(set(target.format) - set(sources.formats))):
        yield refused(f"format {', '.join(strange)} is not accepted (sources.formats: {', '.join(sources.formats)})")
    if sources.digests and (bare := [file.path for file in target.files if file.sha256 is None]):
        yield unread(f"{_few(bare)} without a sha256 (sources.digests); scan with hashing on")
    if policy.provenance.locked and report.lock is None:
        yield refused(f"{target.uri} was not scanned from a lock (provenance.locked); add it with `modelguard lock add`")
    if not report.failure and target.card and (sources.licences is not None or policy.provenance.base_model == "check"):
        yield unread(f"the model card was not read, so what it claims is unknown: {target.card}")
    elif not report.failure:
        if sources.licences is not None and not any(target.licence and glob_matches(item, target.licence) for item in sources.licences):
            said = f"licence {target.licence} is not accepted" if target.licence else "its model card names no licence"
            yield refused(f"{said} (sources.licences: {', '.join(sources.licences)})")
        if policy.provenance.base_model == "check":
            yield from _lineage(report, subject)
    if report.self_reference:
        yield unread(
            f"the reference is the target itself ({report.self_reference}), so the comparison says nothing; "
            "name a trusted copy that came another way"
        )
    if sources.left_out == "incomplete" and target.left_out:
        listed = ", ".join(f"{item.path} ({item.files} files: {item.reason})" for item in target.left_out)
        yield unread(f"left out and not looked into: {listed} (sources.left_out: incomplete); scan a copy without them")
    if sources.remote_code == "deny":
        if code := [file.path for file in target.files if file.path.lower().endswith(CODE_ENDINGS)]:
            yield refused(f"code comes with the weights: {_few(code)} (sources.remote_code: deny)")
        completed = {item.detector for item in report.outcomes if item.status is Status.COMPLETED}
        brought = {CORE, *(item.name for item in report.plugins)}
        looking = {name for name in catalogue.reporting(judgement.EXECUTABLE_CONTENT) if catalogue.provider(name) in brought}
        if not report.failure and (absent := sorted(looking - completed)):
            yield unread(
                f"whether its configuration points at code was not looked at: {', '.join(absent)} did not complete "
                "(sources.remote_code: deny)"
            )
        pointing = [
            item
            for _, item in report.findings()
            if item.rule.startswith(judgement.EXECUTABLE_CONTENT) and report.severity(item) > Severity.INFO
        ]
        if pointing:
            files = sorted({item.location.file or "configuration" for item in pointing})
            rules = ", ".join(sorted({item.rule for item in pointing}))
            yield refused(f"{_few(files)} holds or names code to run ({rules}; sources.remote_code: deny)")


def _lineage(report: Report, subject: str) -> Iterator[Violation]:
    """Whether the weights come from every base model that the card claims."""
    reference = report.reference.identity.removeprefix("hf:") if report.reference is not None else ""
    compared = {reference} if any(item.detector == "weight-diff" and item.status is Status.COMPLETED for item in report.outcomes) else set()
    for claim in report.target.base_models:
        if claim not in compared:
            said = f"the model card claims that it comes from {claim}, and it was not compared with that (provenance.base_model: check)"
            yield Violation("source", subject, said, blocks=False, rule=judgement.BASE_MODEL_NOT_COMPARED.id)
        elif any(item.rule == judgement.UNRELATED for _, item in report.findings()):
            said = f"the model card claims that it comes from {claim}, and its weights do not (provenance.base_model: check)"
            yield Violation("source", subject, said, blocks=True, rule=judgement.BASE_MODEL_FALSE.id)


def _allowed(uri: str, allow: tuple[str, ...]) -> bool:
    # A glob must not be climbed out of: hf://acme/../evil/x is not below hf://acme/.
    return ".." not in re.split(r"[/\\]", uri) and any(glob_matches(pattern, uri) for pattern in allow)


def _pinned(uri: str, revision: str | None) -> bool:
    named = re.search(r"@([0-9a-f]{40})(?:/|$)", uri)
    return named is not None and revision in (None, named[1])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plugins(report: Report, policy: Policy, ledger: _Ledger) -> None:
    for plugin in report.plugins:
        if not policy.allows_plugin(plugin.name):
            message = f"plugin {plugin.name} {plugin.version} took part and is not in plugins.allow"
            ledger.violations.append(Violation("plugin", plugin.name, message, blocks=True, rule=judgement.PLUGIN_REFUSED.id))
    for failure in report.plugin_failures:
        message = f"plugin {failure.name} of {failure.distribution} could not be used: {failure.reason}"
        # One that the policy keeps out has not failed.
        if policy.plugins.failures == "incomplete" and policy.allows_plugin(failure.distribution):
            message += " (plugins.failures: incomplete)"
            ledger.violations.append(Violation("plugin", failure.distribution, message, blocks=False, rule=judgement.PLUGIN_FAILED.id))
        else:
            ledger.notes.append(message)


def _completeness(report: Report, policy: Policy, ledger: _Ledger) -> None:
    required = policy.required_for(reference=report.reference is not None, samples=report.samples is not None)
    for name in required:
        outcomes = [outcome for outcome in report.outcomes if outcome.detector == name]
        if not outcomes and not report.failure:
            message = f"required detector {name} did not run{_why_missing(report, name)}"
            ledger.violations.append(Violation("detector", name, message, blocks=False, rule=judgement.MISSING.id))
        for outcome in outcomes:
            if outcome.status is not Status.COMPLETED:
                message = f"required detector {_ended(outcome)}"
                ledger.violations.append(Violation("detector", name, message, blocks=False, rule=judgement.STATUS_RULES[outcome.status].id))
    for outcome in report.outcomes:
        if outcome.status is Status.COMPLETED or outcome.detector in required:
            continue
        if outcome.status is Status.SKIPPED or outcome.detector in (policy.detectors.optional or ()):
            ledger.notes.append(f"detector {_ended(outcome)} (not required)")
        else:
            rule = judgement.STATUS_RULES[outcome.status].id
            message = f"detector {_ended(outcome)} (not in detectors.optional)"
            ledger.violations.append(Violation("detector", outcome.detector, message, blocks=False, rule=rule))


def _ended(outcome: Outcome) -> str:
    verb = {Status.SKIPPED: "was skipped", Status.ERRORED: "failed", Status.TIMED_OUT: "ran out of time"}[outcome.status]
    return f"{outcome.detector} {verb}: {outcome.reason}" if outcome.reason else f"{outcome.detector} {verb}"


def _why_missing(report: Report, name: str) -> str:
    distribution = catalogue.provider(name)
    for failure in report.plugin_failures:
        if distribution == failure.distribution or name == failure.name:
            return f": its plugin could not be used ({failure.reason})"
    if any(name in plugin.detectors for plugin in report.plugins):
        return ": it was left out of the scan"
    return f": it is not installed; install {distribution}" if distribution else ": it is not installed"


def _waived(report: Report, finding: Finding, policy: Policy, today: datetime.date, ledger: _Ledger) -> bool:
    """Whether a waiver settles the finding: lets it through, or blocks it because its time is up."""
    named = [waiver for waiver in policy.waivers if (waiver.rule, waiver.fingerprint) == (finding.rule, finding.fingerprint)]
    digests = {file.sha256 for file in report.target.files if file.path == finding.location.file}
    waivers = sorted((item for item in named if item.sha256 is None or item.sha256 in digests), key=lambda item: item.expires)
    if not waivers:
        ledger.notes += [f"the waiver of {item.rule} by {item.owner} is for other bytes than these (sha256)" for item in named]
        return False
    waiver = waivers[-1]
    expires = waiver.expires.isoformat()
    if today > waiver.expires:
        message = f"{finding.message} [waived by {waiver.owner} until {expires}, which has passed]"
        ledger.violations.append(Violation("waiver", finding.fingerprint, message, blocks=True, rule=judgement.WAIVER_EXPIRED.id))
        return True
    ledger.waived.append(Waived(finding.fingerprint, finding.rule, waiver.reason, waiver.owner, expires))
    if waiver.expires - today <= EXPIRY_NOTICE:
        ledger.notes.append(f"the waiver of {finding.rule} by {waiver.owner} expires on {expires}")
    return True


def _ruled(report: Report, detector: str, finding: Finding, policy: Policy, ledger: _Ledger, *, is_known: bool, was: str) -> None:
    """Apply the first rule that matches, or the default; the message of a violation says which."""
    action, because = policy.default, "default"
    for number, rule in enumerate(policy.rules):
        if _matches(rule.match, report, detector, finding):
            action, because = rule.action, f"rules[{number}]: {rule.match}"
            break
    if is_known and action in ("warn", "block"):
        ledger.known.append(finding.fingerprint)
    elif action == "warn":
        ledger.warnings.append(finding.fingerprint)
    elif action != "allow":
        message = f"{finding.message} [{because}]" + (f" [not as in the baseline: {was}]" if was else "")
        ledger.violations.append(Violation("finding", finding.fingerprint, message, blocks=action == "block", rule=finding.rule))


def _against(baseline: Report | None, report: Report) -> tuple[set[int], dict[int, str]]:
    """By ``id``: the report's findings that are known, and what is different of those that the baseline has in another form."""
    if baseline is None or (report.failure and not report.target.identity):  # what could not be read has no findings
        return set(), {}
    check_same(baseline, report.target.identity)
    if report.failure:
        return set(), {}
    same, changed = known_findings(baseline, report)
    return {id(finding) for finding in same}, {id(item.after): ", ".join(item.what) for item in changed}


def _mark_known_gaps(ledger: _Ledger, then: Decision) -> None:
    """Say of what was not looked at that it was not in the baseline either. It stays without a verdict."""
    before = {_gap(item) for item in then.violations if not item.blocks}
    ledger.violations = [
        replace(item, message=f"{item.message} [known: nor was it in the baseline]") if not item.blocks and _gap(item) in before else item
        for item in ledger.violations
    ]


def _gap(item: Violation) -> tuple[str, str, str]:
    """What tells one gap from another: of a source, which has several, also what is said."""
    return (item.kind, item.subject, item.message if item.kind == "source" else "")


def _matches(match: Match, report: Report, detector: str, finding: Finding) -> bool:
    return (
        (match.rule is None or glob_matches(match.rule, finding.rule))
        and (match.detector is None or match.detector == detector)
        and (match.severity is None or match.severity.holds(report.severity(finding)))
        and (match.confidence is None or match.confidence.holds(finding.confidence))
    )
