"""How reports look: ``render(report, decision) -> str``, pure."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelguard.report import Reporter


def builtin_reporters() -> Iterable[type[Reporter]]:
    """The reporters that ship with modelguard."""
    from modelguard._reporters.console import ConsoleReporter
    from modelguard._reporters.csv import CsvReporter
    from modelguard._reporters.diff import DiffAllReporter, DiffReporter
    from modelguard._reporters.github import GithubReporter
    from modelguard._reporters.gitlab import CodeQualityReporter, SastReporter
    from modelguard._reporters.html import HtmlReporter
    from modelguard._reporters.json import JsonReporter
    from modelguard._reporters.junit import JunitReporter
    from modelguard._reporters.markdown import MarkdownReporter
    from modelguard._reporters.sarif import SarifReporter

    reporters: list[type[Reporter]] = [
        ConsoleReporter,
        HtmlReporter,
        JsonReporter,
        SarifReporter,
        MarkdownReporter,
        GithubReporter,
        CodeQualityReporter,
        SastReporter,
        JunitReporter,
        CsvReporter,
        DiffReporter,
        DiffAllReporter,
    ]
    if find_spec("cyclonedx") is not None:  # the extra `bom`
        from modelguard._reporters.cyclonedx import CycloneDxReporter

        reporters.append(CycloneDxReporter)
    return reporters
