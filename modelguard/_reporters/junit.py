"""JUnit XML, which every CI system shows: a test case for each detector, and one for what the policy asks of the artifact itself."""

from __future__ import annotations

from xml.etree import ElementTree

from modelguard._reporters.escape import visible
from modelguard._reporters.things import Reason, Thing, things, why_not
from modelguard._reporters.view import answer, place
from modelguard.report import Decision, Outcome, Report, Reporter, Status

POLICY = "policy"


class JunitReporter(Reporter):
    """Fails where the policy blocks, errs where something required was not looked at, and skips what did not have to look."""

    format = "junit"

    def render(self, report: Report, decision: Decision) -> str:
        found = things(report, decision)
        given = why_not(report, decision, found)
        name = f"modelguard {visible(report.target.uri)}"
        suite = ElementTree.Element("testsuite", name=name)
        detectors = {outcome.detector for outcome in report.outcomes}
        about: dict[str, list[Reason]] = {}
        for reason in given:
            subject = reason.thing.detector if reason.thing is not None else reason.violation.subject
            about.setdefault(subject if subject in detectors else POLICY, []).append(reason)
        seconds = report.timings.get("detectors", {})
        for outcome in report.outcomes:
            case = _case(suite, name, outcome.detector, seconds.get(outcome.detector))
            _judge(case, about.get(outcome.detector, []))
            if outcome.status is not Status.COMPLETED and not len(case):
                ElementTree.SubElement(case, "skipped", message=visible(f"{outcome.status.value}: {outcome.reason}"))
            _rest(case, outcome, [thing for thing in found if thing.detector == outcome.detector])
        policy = _case(suite, name, POLICY, None)
        _judge(policy, about.get(POLICY, []))
        ElementTree.SubElement(policy, "system-out").text = answer(report, decision)
        suite.set("tests", str(len(suite)))
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
        ElementTree.indent(suite)
        return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, name: str, detector: str, seconds: object) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname=name, name=visible(detector))
    if isinstance(seconds, int | float):
        case.set("time", f"{seconds:.3f}")
    return case


def _judge(case: ElementTree.Element, given: list[Reason]) -> None:
    """A failure for what blocks, an error for what was not looked at; several reasons in one, as readers take only the first."""
    for tag, blocks in (("failure", True), ("error", False)):
        lines = [visible(f"{reason.violation.rule} {reason.violation.message}") for reason in given if reason.violation.blocks is blocks]
        if lines:
            ElementTree.SubElement(case, tag, message=lines[0], type=tag).text = "\n".join(lines)


def _rest(case: ElementTree.Element, outcome: Outcome, found: list[Thing]) -> None:
    lines = [
        f"{thing.severity.label} {thing.finding.rule} {visible(thing.finding.message)} ({thing.fate}) {place(thing.finding)}".rstrip()
        for thing in found
    ]
    if lines:
        ElementTree.SubElement(case, "system-out").text = "\n".join(lines)
