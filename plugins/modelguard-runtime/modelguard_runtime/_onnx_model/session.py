"""onnxruntime on an ONNX file whose weights are already in memory: the yardstick of parity, and the fast path forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from modelguard import ModelError
from modelguard_runtime._failures import one_line, raise_if_out_of_memory
from modelguard_runtime._onnx_model.file import OnnxFile
from modelguard_runtime.onnx import EXTERNAL_KEY

if TYPE_CHECKING:
    import numpy.typing as npt

PROVIDER = "CPUExecutionProvider"
_LOCATION = "modelguard"
_FIXED = {"enable_fallback": 0, "read_config_from_model": 0}
"""No other provider when this one fails, and no session settings out of the model's own metadata."""


class OrtSession:
    """One onnxruntime session on the CPU. ``batch`` is the size the graph is fixed to, or None.

    ``extra(x)`` gives the inputs other than ``name``. The session gets the graph as bytes and the weights as arrays; a graph that
    names files is refused, since onnxruntime would open them. Custom operator libraries are never loaded.

    Raises :class:`ModelError` when onnxruntime is missing, refuses the graph, or does not run it where it was told to.
    """

    def __init__(
        self,
        file: OnnxFile,
        name: str,
        output: str,
        *,
        batch: int | None = None,
        extra: Callable[[npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]] | None = None,
        optimise: bool = False,
        threads: int,
    ) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModelError("onnxruntime", f"is not installed ({one_line(error)})", "install it, or modelguard-runtime again") from error
        except ImportError as error:
            raise_if_out_of_memory(error)
            raise ModelError("onnxruntime", f"cannot be loaded: {one_line(error)}", "reinstall it") from error
        self._name, self._output, self._extra = name, output, extra
        self.batch = batch
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        model, weights = _with_arrays(file)
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        if optimise:
            options.add_external_initializers(list(values), list(values.values()))
        else:
            # onnxruntime copies initializers, but not inputs: a session that runs a few times need not hold the weights again.
            _as_inputs(model, values)
        self._values, self._fed = values, {} if optimise else values
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER], **_FIXED)
        except Exception as error:  # onnxruntime raises many types, without a common base
            raise_if_out_of_memory(error)
            raise ModelError("onnxruntime", f"refuses the graph: {one_line(error)}", "export the model again") from error
        if self._session.get_providers()[:1] != [PROVIDER]:
            raise ModelError("onnxruntime", f"runs on {self._session.get_providers()} instead of {PROVIDER}", "reinstall onnxruntime")

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The graph's output for its input ``x`` (N, ...), whatever batch size the graph is fixed to."""
        if self.batch is None or len(x) == self.batch:
            return self._run(x)
        parts = []
        for start in range(0, len(x), self.batch):
            part = x[start : start + self.batch]
            short = self.batch - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], short, 0)]) if short else part
            parts.append(self._run(padded)[: len(part)])
        return np.concatenate(parts)

    def _run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        import onnxruntime

        arrays = {self._name: x, **(self._extra(x) if self._extra is not None else {})}
        feed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        try:
            result = self._session.run_with_ort_values([self._output], {**feed, **self._fed})[0].numpy()
        except Exception as error:
            raise_if_out_of_memory(error)
            raise ModelError("onnxruntime", f"cannot run the graph: {one_line(error)}", "export the model again") from error
        if not isinstance(result, np.ndarray):
            raise ModelError(f"output {self._output[:80]!r}", "is not a tensor", "export the model without ZipMap")
        return result


def _with_arrays(file: OnnxFile) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """The model as onnxruntime takes it, and the graph's large weights, which it gets beside it.

    Raises :class:`ModelError` for a tensor that refers to any other data.
    """
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    del model.training_info[:]
    weights: dict[str, npt.NDArray[Any]] = {}
    for tensor in model.graph.initializer:
        array = _taken_out(file, tensor)
        if array is not None and array.dtype.kind == "f":
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", _LOCATION), ("offset", "0"), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=value)
            weights[tensor.name] = np.ascontiguousarray(array)
        elif array is not None:
            tensor.raw_data = array.tobytes()
    for tensor in _other_tensors(model):
        array = _taken_out(file, tensor)
        if array is not None:
            tensor.raw_data = array.tobytes()
    return model, weights


def _as_inputs(model: onnx.ModelProto, weights: Iterable[str]) -> None:
    """Turn the initializers named ``weights`` into inputs of the graph, in place."""
    moved = set(weights)
    declared = {info.name for info in model.graph.input}
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name not in moved:
            kept.append(tensor)
        elif tensor.name not in declared:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _taken_out(file: OnnxFile, tensor: TensorProto) -> npt.NDArray[Any] | None:
    """The payload of a tensor that was stripped of it, whose place in the message is then empty; None when it was not."""
    if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
        return None
    if [entry.key for entry in tensor.external_data] != [EXTERNAL_KEY]:
        raise ModelError(f"tensor {tensor.name[:80]!r}", "refers to data outside the graph", "the graph is malformed or hostile")
    array = file.weight(tensor.external_data[0].value)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return array


def _other_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model that is not an initializer of its graph."""
    yield from _inner_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _inner_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            # Whatever field is set counts: an attribute's declared type may lie.
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (*((attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else ()), *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graph.initializer
                yield from _inner_tensors(graph)
