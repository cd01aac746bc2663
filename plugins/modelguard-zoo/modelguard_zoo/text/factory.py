"""Runs the zoo's own text architectures: safetensors and a config.json whose model_type is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from modelguard import (
    Artifact,
    BuildRequest,
    Checkpoint,
    InputHints,
    ModelError,
    ModelguardError,
    ModelOptions,
    artifact_json,
    output_spec,
    resolve_input,
)
from modelguard_runtime import ModelFacts, TorchFactory, load_weights

if TYPE_CHECKING:
    from modelguard_runtime import TorchModel

MODEL_TYPE = "modelguard-zoo"


class ZooTextFactory(TorchFactory):
    """Bag of embeddings, convolutions and LSTM of :mod:`modelguard_zoo.text`."""

    id: ClassVar[str] = "zoo-text"
    priority: ClassVar[int] = 25

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        if checkpoint.format != "safetensors" or options.factory is not None:
            return False
        try:
            return artifact_json(artifact, checkpoint, "config.json").get("model_type") == MODEL_TYPE
        except ModelguardError:
            return False
