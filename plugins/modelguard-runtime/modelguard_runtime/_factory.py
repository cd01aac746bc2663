"""What every factory of a torch model does alike. Importing this imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from modelguard import Artifact, BuildRequest, Checkpoint, ModelFactory, ModelguardError, ModelOptions, RunnableModel, Skip
from modelguard_runtime._failures import raise_if_out_of_memory

if TYPE_CHECKING:
    from modelguard_runtime._torch_model import TorchModel

WEIGHTS_ONLY = ("safetensors", "torch-zip", "torch-legacy")
"""Formats whose weights go into a module that the configuration names."""


class TorchFactory(ModelFactory):
    """A factory whose models are torch modules. A subclass says what it accepts, and makes the model.

    What every model goes through comes after that: it is moved to the device, and to the precision, that were asked for; held against
    the samples; and its gradient is checked.
    """

    @abstractmethod
    def make(self, request: BuildRequest) -> TorchModel:
        """The model on the CPU in float32.

        Raises :class:`~modelguard.ModelError` when it must not be used, or :class:`~modelguard.Skip` with the reason it cannot be run.
        """

    def build(self, request: BuildRequest) -> RunnableModel:
        """:meth:`make`, and what every model goes through. Raises what ``make`` does, and ``MemoryError`` where memory ran out."""
        import torch

        from modelguard_runtime._finish import finish

        if request.options.threads is not None:
            torch.set_num_threads(request.options.threads)
        try:
            model = self.make(request)
        except (ModelguardError, Skip):
            raise
        except Exception as error:
            raise_if_out_of_memory(error)
            raise
        finish(model, request)
        return model


class WeightsFactory(TorchFactory):
    """A factory for checkpoints without a graph, which says by the configuration whether it knows the architecture."""

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        if checkpoint.format not in WEIGHTS_ONLY or options.factory is not None:
            return False
        try:
            return self.knows(artifact, checkpoint)
        except ModelguardError:
            return False  # a configuration that cannot be read names no architecture

    @abstractmethod
    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        """Whether the configuration, or the names and shapes of the tensors, name an architecture. Reads no tensor.

        Raises :class:`~modelguard.ModelguardError` when the configuration cannot be read.
        """
