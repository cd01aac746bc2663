"""How reports look: ``render(report, decision) -> str``, pure."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from modelguard.report import Reporter

if TYPE_CHECKING:
    from modelguard.report import Decision, Report

HOMES = {
    "console": "console.ConsoleReporter",
    "html": "html.HtmlReporter",
    "json": "json.JsonReporter",
    "sarif": "sarif.SarifReporter",
    "markdown": "markdown.MarkdownReporter",
    "github": "github.GithubReporter",
    "gitlab-codequality": "gitlab.CodeQualityReporter",
    "gitlab-sast": "gitlab.SastReporter",
    "junit": "junit.JunitReporter",
    "csv": "csv.CsvReporter",
    "diff": "diff.DiffReporter",
    "diff-all": "diff.DiffAllReporter",
    "cyclonedx": "cyclonedx.CycloneDxReporter",
}
"""The module and class of every reporter that ships with modelguard, by its format."""


def builtin_reporters() -> Iterable[type[Reporter]]:
    """The reporters that ship with modelguard. Each is imported once it renders: a scan writes one or two of a dozen formats."""
    there = [name for name in HOMES if name != "cyclonedx" or find_spec("cyclonedx") is not None]  # the extra `bom`
    return [_stand_in(name) for name in there]


def _stand_in(name: str) -> type[Reporter]:
    def real() -> type[Reporter]:
        module, _, attribute = HOMES[name].partition(".")
        found: type[Reporter] = getattr(import_module(f"modelguard._reporters.{module}"), attribute)
        return found

    class StandIn(Reporter):
        format = name

        def __new__(cls) -> Any:
            return real()()

        @classmethod
        def for_stream(cls, stream: TextIO) -> Any:
            return real().for_stream(stream)

        def render(self, report: Report, decision: Decision) -> str:
            raise NotImplementedError  # no instance is ever made: __new__ gives one of the real class

    return StandIn
