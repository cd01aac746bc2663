"""The model factories modelguard ships. Nothing here imports torch until a model is built."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Skip
from modelguard.errors import ModelError, ModelguardError
from modelguard.model import ModelFactory, ModelOptions, RunnableModel, Samples
from modelguard_runtime import plain, timm_model, transformers_model
from modelguard_runtime.failures import one_line, raise_if_out_of_memory

WEIGHTS_ONLY = ("safetensors",)
"""Formats whose weights go into a module that the configuration names."""


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise Skip("running a model needs torch: pip install modelguard[runtime]")


class UserFactory(ModelFactory):
    """The user's own function builds the module; any format whose tensors can be read will do."""

    id: ClassVar[str] = "user"
    priority: ClassVar[int] = 0

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        return options.factory is not None

    def build(self, artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> RunnableModel:
        _require_torch()
        from modelguard_runtime.user_factory import build

        return build(artifact, checkpoint, samples, options)


class OnnxFactory(ModelFactory):
    """The graph in an ONNX file, made differentiable and held against onnxruntime."""

    id: ClassVar[str] = "onnx"
    priority: ClassVar[int] = 10

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        return checkpoint.format == "onnx" and options.factory is None

    def build(self, artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> RunnableModel:
        _require_torch()
        from modelguard_runtime.graph_errors import graph_errors
        from modelguard_runtime.onnx_model import build

        try:
            with graph_errors():
                return build(artifact, checkpoint, samples, options)
        except (ModelguardError, Skip, MemoryError):
            raise
        except Exception as error:  # protobuf lets a graph hold text that is no text and sizes that are no sizes
            raise_if_out_of_memory(error)
            raise ModelError(
                checkpoint.name, f"has a graph that cannot be built ({type(error).__name__}: {one_line(error)})", "export it again"
            ) from error


class _FromWeights(ModelFactory):
    """A factory for checkpoints without a graph, which says by the configuration whether it knows the architecture."""

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        if checkpoint.format not in WEIGHTS_ONLY or options.factory is not None:
            return False
        try:
            return self.knows(artifact, checkpoint)
        except ModelguardError:
            return False  # a configuration that cannot be read names no architecture

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        raise NotImplementedError


class TransformersFactory(_FromWeights):
    """transformers' own classes, by config.json."""

    id: ClassVar[str] = "transformers"
    priority: ClassVar[int] = 20

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        return transformers_model.accepts(artifact_json(artifact, checkpoint, "config.json"))

    def build(self, artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> RunnableModel:
        _require_torch()
        return transformers_model.build(artifact, checkpoint, samples, options)


class TimmFactory(_FromWeights):
    """timm's models, by its config.json."""

    id: ClassVar[str] = "timm"
    priority: ClassVar[int] = 30

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        return timm_model.accepts(artifact_json(artifact, checkpoint, "config.json"))

    def build(self, artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> RunnableModel:
        _require_torch()
        return timm_model.build(artifact, checkpoint, samples, options)


class PlainFactory(_FromWeights):
    """Sequences of linear or convolutional layers whose shapes leave little open; labelled samples settle the rest."""

    id: ClassVar[str] = "plain"
    priority: ClassVar[int] = 90

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        return plain.stages(checkpoint) is not None

    def build(self, artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> RunnableModel:
        _require_torch()
        return plain.build(artifact, checkpoint, samples, options)


BUILTIN: tuple[type[ModelFactory], ...] = (UserFactory, OnnxFactory, TransformersFactory, TimmFactory, PlainFactory)
