"""What this distribution registers with modelguard."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    import click

    from modelguard import ModelFactory


@hookimpl
def modelguard_commands() -> Iterable[click.Command]:
    from modelguard_zoo._cli import zoo
    from modelguard_zoo._demo import demo

    return [demo, zoo]


@hookimpl
def modelguard_models() -> Iterable[type[ModelFactory]]:
    if find_spec("modelguard_runtime") is None:  # nothing runs a model here
        return []
    from modelguard_zoo.text.factory import ZooTextFactory

    return [ZooTextFactory]
