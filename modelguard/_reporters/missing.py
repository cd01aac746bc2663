"""What was not looked at, grouped by what the user could give to have it looked at."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from modelguard._reporters.escape import visible
from modelguard._reporters.view import together
from modelguard.report import Report, Status

_GIVE: Mapping[str, tuple[str, str]] = {
    "--samples": ("clean samples", "--samples samples.npz"),
    "--reference": ("a reference you trust", "--reference REFERENCE"),
    "--model": ("a function that builds the model", "--model package.module:factory"),
    "--input": ("what the model takes", "--input range=LOW..HIGH"),
    "--budget": ("more time", "--budget 1h"),
    "--timeout": ("more time", "--timeout 3600"),
    "--memory": ("more memory", "--memory 16G"),
}
"""What an option gives, in words and on a command line. A reason ends in its remedy, and the remedy names the option."""
_OPTION = re.compile(r"(?<![\w-])--[a-z]+")
_INSTALL = re.compile(r"\binstall (modelguard-[a-z-]+)")


@dataclass(frozen=True)
class Lack:
    """Detectors that did not complete for want of one thing.

    ``give`` names it, ``option`` is the option that gives it or the distribution to install; both are empty where nothing the user gives
    would help. ``command`` is what to run then, and ``reasons`` say why, each with its detectors.
    """

    give: str
    option: str
    command: str
    detectors: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...]


def lacks(report: Report) -> list[Lack]:
    """What detectors lacked: first what helps most of them, last what nothing helps."""
    held: dict[str, list[tuple[str, str]]] = {}
    for outcome in report.outcomes:
        if outcome.status is not Status.COMPLETED:
            named = _INSTALL.findall(outcome.reason) or [option for option in _OPTION.findall(outcome.reason) if option in _GIVE]
            held.setdefault(named[0] if named else "", []).append((outcome.detector, _told(outcome.status, outcome.reason)))
    made = []
    for option, members in held.items():
        by_reason: dict[str, list[str]] = {}
        for detector, reason in members:
            by_reason.setdefault(reason, []).append(visible(detector))
        made.append(
            Lack(
                _GIVE[option][0] if option in _GIVE else f"the plugin {option}" if option else "",
                option,
                command(report, option) if option in _GIVE else "",
                tuple(visible(detector) for detector, _ in members),
                tuple((together(names), reason) for reason, names in by_reason.items()),
            )
        )
    return sorted(made, key=lambda item: (not item.option, -len(item.detectors), item.option))


def command(report: Report, option: str = "") -> str:
    """The scan again, with ``option`` given as well. Empty where a name in it could not be typed as it is shown."""
    parts = ["modelguard", "scan", report.target.uri]
    if report.reference is not None and option != "--reference":
        parts += ["--reference", report.reference.uri]
    if report.samples is not None and option != "--samples":
        parts += ["--samples", report.samples.origin]
    line = " ".join(map(shlex.quote, parts))
    return "" if visible(line) != line else f"{line} {_GIVE[option][1]}" if option else line


def _told(status: Status, reason: str) -> str:
    told = visible(reason) or status.value
    return told if status is Status.SKIPPED else f"{status.value}: {told}"
