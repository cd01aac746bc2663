"""An ONNX checkpoint as a runnable model: taken apart, imported, described, and held against onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from modelguard import BuildRequest, InputSpec, ModelError, Samples, Skip, artifact_json, output_spec
from modelguard_runtime import _parity
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._onnx_model.file import OnnxFile
from modelguard_runtime._onnx_model.head import Head, take_off
from modelguard_runtime._onnx_model.inputs import FILLED, baked_batch, describe_input, graph_inputs, main_input, other_inputs
from modelguard_runtime._onnx_model.session import PROVIDER, OrtSession
from modelguard_runtime._tokenizer import tokenizer
from modelguard_runtime._torch_model import Predictor, TorchModel
from modelguard_runtime.onnx import (
    GraphLimits,
    ImportedGraph,
    UnsupportedError,
    ValueInfo,
    check_size,
    domain_of,
    import_graph,
    supported,
)

if TYPE_CHECKING:
    import numpy.typing as npt

INDEX_DTYPES = ("I64", "I32", "U64", "U32", "BOOL")
"""Of initializers, the element types of shapes and indices rather than weights."""


def build(request: BuildRequest) -> TorchModel:
    """Build the model on the CPU, checked for parity.

    A graph with an operator or opset we lack runs forward only, on onnxruntime; one whose batch size cannot be freed runs in chunks.
    Raises :class:`ModelError` when parity fails, and what :mod:`modelguard_runtime.onnx` raises for a graph it cannot import.
    """
    graph = _Graph.of(request)
    try:
        imported = import_graph(graph.file.model, graph.file.weight)
    except UnsupportedError as reason:
        return _forward_only(graph, str(reason))
    return _differentiable(graph, imported)


@dataclass(frozen=True)
class _Graph:
    """An ONNX checkpoint taken apart: one input that samples go to, the logits its only output."""

    request: BuildRequest
    file: OnnxFile
    head: Head
    inputs: tuple[ValueInfo, ...]
    main: ValueInfo
    config: Mapping[str, Any]
    input: InputSpec

    @classmethod
    def of(cls, request: BuildRequest) -> _Graph:
        """Raises :class:`ModelError` when the graph has not the inputs and outputs of a model that is run."""
        file = OnnxFile.load(request.artifact, request.checkpoint)
        check_size(file.model, GraphLimits())
        head = take_off(file.model)
        inputs = graph_inputs(file.model)
        main = main_input(inputs)
        config = {**_class_labels(file.model), **artifact_json(request.artifact, request.checkpoint, "config.json")}
        return cls(request, file, head, inputs, main, config, describe_input(request, file.model, main, config))

    @property
    def pad(self) -> int | None:
        """The token that fills up short texts."""
        pad = self.config.get("pad_token_id")
        return pad if isinstance(pad, int) else None

    @cached_property
    def facts(self) -> ModelFacts:
        """What is known before the graph is imported."""
        return ModelFacts(
            factory="onnx",
            checkpoint=self.request.checkpoint.name,
            parameters=sum(info.size for info in self.request.checkpoint.tensors.values() if info.dtype not in INDEX_DTYPES),
            graph={
                "inputs": [
                    {"name": info.name, "dtype": info.dtype, "shape": None if info.shape is None else list(info.shape)}
                    for info in self.inputs
                ],
                "outputs": list(self.head.outputs),
                "input_used": self.main.name,
                "output_used": self.head.output,
            },
        )

    def session(self, batch: int | None, *, optimise: bool) -> OrtSession:
        """onnxruntime on the graph; ``batch`` is the size it takes where the exporter fixed none."""
        return OrtSession(
            self.file,
            self.main.name,
            self.file.model.graph.output[0].name,
            batch=baked_batch(self.main) or batch,
            extra=other_inputs(self.inputs, self.main, self.pad),
            optimise=optimise,
            threads=torch.get_num_threads(),
        )

    def model(self, module: nn.Module, facts: ModelFacts, *, batch: int | None = None, predictor: Predictor | None = None) -> TorchModel:
        """``module`` as the model of this graph."""
        request, texts = self.request, self.input.kind == "text" and predictor is not None
        return TorchModel(
            module,
            self.input,
            lambda width, head: output_spec(width, head, request.samples, self.config),
            head=self.head.head,
            batch=batch,
            predictor=predictor,
            encode=tokenizer(request.artifact, request.checkpoint, self.pad or 0, left=False) if texts else None,
            facts=facts,
        )


def _differentiable(graph: _Graph, imported: ImportedGraph) -> TorchModel:
    precision = _precision(imported)
    module = _single(imported, graph.main, graph.pad)
    opsets = {domain or "ai.onnx": version for domain, version in sorted(imported.opsets.items())}
    facts = replace(graph.facts, operators=dict(imported.operators), opsets=opsets)

    def model_of(batch: int | None) -> TorchModel:
        return graph.model(module, facts, batch=batch, predictor=_Lazy(lambda: graph.session(batch, optimise=True)))

    model = _any_batch(model_of, precision) if imported.batch is None else model_of(imported.batch)
    parity = _parity.check(model, graph.session(model.batch, optimise=False), precision, _first(model, graph.request.samples))
    model.facts = replace(model.facts, batch=model.batch, parity=parity, provider=PROVIDER)
    return model


def _any_batch(model_of: Callable[[int | None], TorchModel], precision: str) -> TorchModel:
    """The model that takes any batch as it is; one input at a time where the graph only pretends to.

    The legacy exporter freezes ``len(x)`` and still declares a free batch: such a graph fails on other batches, or mixes the inputs.
    """
    try:
        model = model_of(None)
    except ModelError:
        return model_of(1)
    return model if _parity.independent(model, precision) else model_of(1)


def _forward_only(graph: _Graph, reason: str) -> TorchModel:
    """The model on onnxruntime alone: no gradients, no layers."""
    try:
        session = graph.session(None, optimise=True)
    except ModelError as error:
        raise Skip(f"{reason}; {error.thing} {error.cause}") from error
    operators, unsupported = _coverage(graph.file.model)
    facts = replace(graph.facts, operators=operators, unsupported=unsupported, provider=PROVIDER, forward_only=reason)
    return graph.model(_OnOrt(session, graph.input.dtype), facts)


def _class_labels(model: onnx.ModelProto) -> dict[str, Any]:
    """The names an ``ai.onnx.ml`` classifier gives its classes, as config.json would say them."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.domain == "ai.onnx.ml" and attribute.name == "classlabels_strings":
                names = [name.decode("utf-8", "replace") for name in attribute.strings]
                return {"id2label": {str(place): name for place, name in enumerate(names)}}
    return {}


def _coverage(model: onnx.ModelProto) -> tuple[dict[str, int], tuple[str, ...]]:
    """The operators of a graph that was not imported, and those of them that are in no table; subgraphs and functions are left out."""
    own = {(function.domain, function.name) for function in model.functions}
    counts = Counter((domain_of(node.domain), node.op_type) for node in model.graph.node if (node.domain, node.op_type) not in own)
    named = {(f"{domain}:{name}" if domain else name)[:120]: (domain, name) for domain, name in counts}
    known = supported()
    lacking = sorted(label for label, key in named.items() if key not in known)
    return {label: counts[key] for label, key in sorted(named.items())}, tuple(lacking)


class _OnOrt(nn.Module):
    """onnxruntime as a module. A differentiation through it would silently be zero: :class:`TorchModel` refuses it."""

    def __init__(self, session: OrtSession, dtype: str) -> None:
        super().__init__()
        self._session, self._dtype = session, np.dtype(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        array = np.ascontiguousarray(x.detach().cpu().numpy().astype(self._dtype))
        return torch.from_numpy(self._session(array).astype(np.float32)).to(x.device)


class _Lazy:
    """A session that is made when it is first needed: detectors that want gradients never do."""

    def __init__(self, make: Callable[[], OrtSession]) -> None:
        self._make = make
        self._session: OrtSession | None = None

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._session is None:
            self._session = self._make()
        return self._session(x)


def _single(imported: ImportedGraph, main: ValueInfo, pad: int | None) -> fx.GraphModule:
    """The imported module with one input and one output; other inputs are made of the one. Nodes carry their ONNX name and operator."""
    graph = imported.module.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    chosen = places[[info.name for info in imported.inputs].index(main.name)]
    with graph.inserting_after(places[-1]):
        for node, info in zip(places, imported.inputs, strict=True):
            if node is not chosen:
                node.replace_all_uses_with(graph.call_function(FILLED[info.name], (chosen, pad)))
                graph.erase_node(node)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (output.args[0][0],)
    for node in graph.nodes:
        source = imported.nodes.get(node.name)
        if source is not None:
            node.meta.setdefault("op_type", source.op_type)  # unless it was put together of several
            node.meta["name"] = source.name or source.output
    graph.eliminate_dead_code()
    graph.lint()
    imported.module.recompile()
    return imported.module


def _precision(imported: ImportedGraph) -> str:
    if any(
        name.endswith(("QuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")) for name in imported.operators
    ):
        return "quantised"
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in imported.module.parameters())
    return "float16" if half else "float32"


def _first(model: TorchModel, samples: Samples | None) -> torch.Tensor | None:
    if samples is None:
        return None
    few = replace(samples, inputs=samples.inputs[: _parity.SAMPLES], labels=None)
    return model.inputs(few)
