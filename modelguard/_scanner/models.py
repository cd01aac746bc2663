"""Which checkpoint of an artifact is run, and which factory runs it. The factories themselves come from plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.model import BuildRequest, ModelFactory, ModelOptions, RunnableModel, Samples


def model_builder(
    artifact: Artifact, checkpoints: Sequence[Checkpoint], samples: Samples | None, options: ModelOptions, factories: Sequence[ModelFactory]
) -> tuple[Callable[[], RunnableModel] | None, str]:
    """What builds the model of an artifact, None when no factory accepts any checkpoint; and why it plainly cannot be built, "" where
    nothing speaks against it. Reads no tensor.

    The factory is chosen first, by priority and id, so that a graph is preferred to weights alone; then the checkpoint, one at the
    root before one in a sub-folder, and by name.
    """
    ordered = sorted(checkpoints, key=lambda item: (item.name.count("/"), item.name, item.format))
    for factory in sorted(factories, key=lambda item: (item.priority, item.id)):
        chosen = next((item for item in ordered if factory.accepts(artifact, item, options)), None)
        if chosen is not None:
            others = tuple(item for item in checkpoints if item is not chosen)
            request = BuildRequest(artifact, chosen, others, samples, options)
            return partial(factory.build, request), _obstacle(factory, request)
    requests = [BuildRequest(artifact, item, (), samples, options) for item in ordered]
    told = (_obstacle(factory, request) for request in requests for factory in factories)
    return None, next(filter(None, told), "")


def _obstacle(factory: ModelFactory, request: BuildRequest) -> str:
    """What the factory says, nothing where it fails: building the model fails likewise, and says why."""
    with suppress(Exception):
        return factory.obstacle(request)
    return ""
