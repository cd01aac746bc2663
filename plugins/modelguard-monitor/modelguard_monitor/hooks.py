"""What this distribution registers. Imports happen inside, so that discovering it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def modelguard_commands() -> Iterable[click.Command]:
    from modelguard_monitor._cli import monitor

    return [monitor]
