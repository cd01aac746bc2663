"""Which checkpoint of an artifact is run, and which factory runs it. The factories themselves come from plugins."""

from __future__ import annotations

import posixpath
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
    root before one in a sub-folder, and the one that transformers would load.
    """
    from modelguard._formats.shards import ShardedCheckpoint

    for factory in sorted(factories, key=lambda item: (item.priority, item.id)):
        for item in sorted(checkpoints, key=_preference):
            loaded = item.as_loaded() if isinstance(item, ShardedCheckpoint) else item
            if factory.accepts(artifact, loaded, options):
                others = tuple(other for other in checkpoints if other is not item)
                request = BuildRequest(artifact, loaded, others, samples, options)
                return partial(factory.build, request), _obstacle(factory, request)
    requests = [BuildRequest(artifact, item, (), samples, options) for item in sorted(checkpoints, key=_preference)]
    told = (_obstacle(factory, request) for request in requests for factory in factories)
    return None, next(filter(None, told), "")


def _obstacle(factory: ModelFactory, request: BuildRequest) -> str:
    """What the factory says, nothing where it fails: building the model fails likewise, and says why."""
    with suppress(Exception):
        return factory.obstacle(request)
    return ""


_LOADED = ("model", "model-of-", "pytorch_model")
"""Beginnings of the names that transformers looks for, in its order: the single file, else what the index names; safetensors first."""
_NEVER = ("consolidated", "adapter_model")
"""What lies beside them and is loaded by other code (Mistral's, Meta's), or is not a model by itself."""


def _preference(item: Checkpoint) -> tuple[int, int, int, str, str]:
    folders, name = item.name.count("/"), posixpath.basename(item.name)
    for rank, known in enumerate(_LOADED):
        if name == known or (known.endswith("-") and name.startswith(known)):
            return folders, 0, rank, item.name, item.format
    return folders, 2 if name.startswith(_NEVER) else 1, 0, item.name, item.format
