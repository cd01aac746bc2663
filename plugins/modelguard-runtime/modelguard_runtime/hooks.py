"""What modelguard finds here: the model factories."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import ModelFactory


@hookimpl
def modelguard_models() -> Iterable[type[ModelFactory]]:
    from modelguard_runtime._factories import OnnxFactory, PlainFactory, TimmFactory, TransformersFactory, UserFactory

    return [UserFactory, OnnxFactory, TransformersFactory, TimmFactory, PlainFactory]
