"""An ONNX checkpoint as a runnable model: taken apart, imported, described, and held against onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from modelguard import Artifact, BuildRequest, Checkpoint, ModelError, ModelguardError, ModelOptions, Skip
from modelguard_runtime._factory import TorchFactory
from modelguard_runtime._failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    from modelguard_runtime._torch_model import TorchModel


def _several_inputs(checkpoint: Checkpoint) -> bool:
    graph = checkpoint.graph()
    if graph is None:
        return False
    stored = {tensor.name for tensor in graph.graph.initializers}
    return sum(name not in stored for name in graph.graph.inputs) > 1


class OnnxFactory(TorchFactory):
    """The graph in an ONNX file, made differentiable and held against onnxruntime."""

    id: ClassVar[str] = "onnx"
    priority: ClassVar[int] = 10

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        return checkpoint.format == "onnx" and options.factory is None

    def obstacle(self, request: BuildRequest) -> str:
        """What of several inputs nobody can tell; of a graph that is run, nothing."""
        if request.checkpoint.format != "onnx" or request.options.factory is not None or not _several_inputs(request.checkpoint):
            return ""
        from modelguard_runtime._onnx_model.take import take

        try:
            take(request)
        except Skip as reason:
            return str(reason)
        return ""

    def make(self, request: BuildRequest) -> TorchModel:
        """See :func:`~modelguard_runtime._onnx_model.build.build`."""
        from modelguard_runtime._graph_errors import graph_errors
        from modelguard_runtime._onnx_model.build import build

        try:
            with graph_errors():
                return build(request)
        except (ModelguardError, Skip, MemoryError):
            raise
        except Exception as error:  # protobuf lets a graph hold text that is no text and sizes that are no sizes
            raise_if_out_of_memory(error)
            cause = f"has a graph that cannot be built ({type(error).__name__}: {one_line(error)})"
            raise ModelError(request.checkpoint.name, cause, "export it again") from error
