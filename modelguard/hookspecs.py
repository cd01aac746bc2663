"""The whole plugin contract on one screen.

A plugin is an installed distribution with an entry point in the group ``modelguard`` that names a module (or object) whose
functions, marked ``@hookimpl``, hand over classes. Hooks never do the work: the scanner isolates, times, orders and attributes.
Keep the entry-point module light: import torch and friends inside the classes' methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from modelguard.artifact import Source
    from modelguard.checkpoint import Format
    from modelguard.detector import Detector
    from modelguard.model import ModelFactory
    from modelguard.report import Reporter

GROUP = "modelguard"
hookspec = pluggy.HookspecMarker("modelguard")
hookimpl = pluggy.HookimplMarker("modelguard")


@hookspec
def modelguard_detectors() -> Iterable[type[Detector]]:  # type: ignore[empty-body]
    """Ways of looking at a target."""


@hookspec
def modelguard_formats() -> Iterable[type[Format]]:  # type: ignore[empty-body]
    """How to recognise and open a checkpoint file."""


@hookspec
def modelguard_sources() -> Iterable[type[Source]]:  # type: ignore[empty-body]
    """URI schemes artifacts come from."""


@hookspec
def modelguard_models() -> Iterable[type[ModelFactory]]:  # type: ignore[empty-body]
    """How to turn a checkpoint into a runnable model."""


@hookspec
def modelguard_reporters() -> Iterable[type[Reporter]]:  # type: ignore[empty-body]
    """How to render a report."""


@hookspec
def modelguard_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]
    """Subcommands of ``modelguard``."""
