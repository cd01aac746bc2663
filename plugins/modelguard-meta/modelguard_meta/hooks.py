"""What this distribution registers. Imports happen inside, so that discovering it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    import click

    from modelguard import Detector


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_meta.detector import Mntd

    return [Mntd]


@hookimpl
def modelguard_commands() -> Iterable[click.Command]:
    from modelguard_meta._cli import meta

    return [meta]
