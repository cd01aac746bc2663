"""Runs the zoo's own text architectures: safetensors beside a config.json whose model_type is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from modelguard_runtime import ModelFacts, TorchFactory, read_text

from modelguard import (
    Artifact,
    BuildRequest,
    Checkpoint,
    InputHints,
    ModelguardError,
    ModelOptions,
    OutputSpec,
    artifact_json,
    output_spec,
    resolve_input,
)
from modelguard_zoo.text import MODEL_TYPE

if TYPE_CHECKING:
    from modelguard_runtime import TorchModel


class ZooTextFactory(TorchFactory):
    """Bag of embeddings, convolutions and LSTM of :mod:`modelguard_zoo.text.architectures`."""

    id: ClassVar[str] = "zoo-text"
    priority: ClassVar[int] = 25

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        if checkpoint.format != "safetensors" or options.factory is not None:
            return False
        try:
            return bool(artifact_json(artifact, checkpoint, "config.json").get("model_type") == MODEL_TYPE)
        except ModelguardError:
            return False  # a configuration that cannot be read names no architecture

    def make(self, request: BuildRequest) -> TorchModel:
        """Build the architecture and load the checkpoint into it, strictly.

        Raises :class:`~modelguard.ModelError` when config.json describes none, or the tensors do not fit it.
        """
        from modelguard_runtime import TorchModel, load_weights

        from modelguard_zoo.text.architectures import from_config

        artifact, checkpoint, samples = request.artifact, request.checkpoint, request.samples
        config = artifact_json(artifact, checkpoint, "config.json")
        module = from_config(config, {name: info.shape for name, info in checkpoint.tensors.items()})
        load_weights(module, checkpoint)
        vocabulary = module.embedding.num_embeddings
        hints = [InputHints.from_option(request.options.input)] if request.options.input else []
        hints.append(InputHints("config.json", "text", (-1,), "int64", "NT", 0.0, float(vocabulary - 1)))

        def describe_output(width: int, head: Any) -> OutputSpec:
            return output_spec(width, head, samples, config)

        return TorchModel(
            module,
            resolve_input(hints, samples),
            describe_output,
            head="logits",
            text=read_text(artifact, checkpoint, config, vocabulary=vocabulary),
            facts=ModelFacts(factory=f"zoo-text: {type(module).__name__}", checkpoint=checkpoint.name),
        )
