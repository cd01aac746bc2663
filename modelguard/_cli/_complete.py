"""What a shell offers for arguments and options: files, and the names that modelguard itself knows. No plugin is imported for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def files(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Whatever files the shell finds."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def policies(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The built-in policies, and files."""
    from modelguard._policies.load import BUILTIN, builtin_names

    return _matching((f"{BUILTIN}{name}" for name in builtin_names()), begun) or files(context, parameter, begun)


def detectors(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """modelguard's own detectors, installed or not."""
    from modelguard._policies.catalogue import detectors as known

    return _matching(known(), begun)


def rules(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """modelguard's own rules."""
    from modelguard._policies.catalogue import detectors as known
    from modelguard.policy import JUDGEMENT_RULES

    return _matching(sorted({rule.id for item in known().values() for rule in item.rules} | {rule.id for rule in JUDGEMENT_RULES}), begun)


def formats(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Forms of a report; ``FORMAT=`` where a file follows."""
    from modelguard._reporters import builtin_reporters

    names = (item.format for item in builtin_reporters())
    return _matching((f"{name}=" for name in names) if parameter.multiple else names, begun)


def _matching(names: Iterable[str], begun: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(begun)]
