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

from modelguard import BuildRequest, InputSpec, ModelError, OutputSpec, Samples, Skip, artifact_json, output_spec
from modelguard_runtime import _parity
from modelguard_runtime._domain import FREE, Domain
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._onnx_model.complete import complete
from modelguard_runtime._onnx_model.file import OnnxFile
from modelguard_runtime._onnx_model.inputs import add_batch, baked_batch, describe_input, token_table
from modelguard_runtime._onnx_model.kind import PROBABILITY, Seen, kind_of
from modelguard_runtime._onnx_model.session import PROVIDER, OrtSession
from modelguard_runtime._onnx_model.settle import Run, Settled, settle
from modelguard_runtime._onnx_model.take import Taken, take
from modelguard_runtime._text import Text, padding, read_text
from modelguard_runtime._torch_model import Predictor, TorchModel
from modelguard_runtime.onnx import (
    GraphLimits,
    ImportedGraph,
    UnsupportedError,
    check_size,
    domain_of,
    import_graph,
    supported,
)
from modelguard_runtime.onnx.tensors import DTYPE_NAMES

if TYPE_CHECKING:
    import numpy.typing as npt

LONG = 1024
"""Tokens up to which it is tried how many a graph takes."""
INDEX_DTYPES = ("I64", "I32", "U64", "U32", "BOOL")
"""Of initializers, the element types of shapes and indices rather than weights."""


def build(request: BuildRequest) -> TorchModel:
    """Build the model on the CPU, checked for parity.

    A graph with an operator or opset we lack runs forward only, on onnxruntime; one whose batch size cannot be freed runs in chunks.
    Raises :class:`ModelError` when parity fails, and what :mod:`modelguard_runtime.onnx` raises for a graph it cannot import.
    """
    graph = _Graph.of(request)
    try:
        return _differentiable(graph)
    except UnsupportedError as reason:
        return _forward_only(_Graph.of(request), str(reason))
    except ModelError as error:
        if error.thing != "onnxruntime":
            raise
        # It may insist on a batch of one where ours does not (an initial state that was exported for one).
        return _differentiable(_Graph.of(request), 1)


@dataclass
class _Graph:
    """An ONNX checkpoint taken apart: one input that samples go to, the logits its only output. ``input`` and the file's graph are
    settled, in place, by what it returns."""

    request: BuildRequest
    taken: Taken
    config: Mapping[str, Any]
    input: InputSpec

    @classmethod
    def of(cls, request: BuildRequest) -> _Graph:
        """Raises :class:`ModelError` when the graph has not the inputs and outputs of a model that is run, :class:`Skip` where it cannot
        be told."""
        taken = take(request)
        model = taken.file.model
        check_size(model, GraphLimits())
        config = {**taken.labels, **artifact_json(request.artifact, request.checkpoint, "config.json")}
        complete(model, taken.roles, taken.inputs, padding(request.artifact, request.checkpoint, config))
        data = add_batch(model, taken.roles.data) if taken.roles.data.rank == 1 else taken.roles.data
        return cls(request, replace(taken, data=data), config, describe_input(request, model, data, config))

    @property
    def file(self) -> OnnxFile:
        return self.taken.file

    @cached_property
    def text(self) -> Text | None:
        """What is known of the text, where the graph takes token ids."""
        return self._read_text(generates=False)

    def _read_text(self, *, generates: bool) -> Text | None:
        if self.input.kind != "text":
            return None
        fixed = self.input.shape[0]
        return read_text(
            self.request.artifact,
            self.request.checkpoint,
            self.config,
            vocabulary=int(self.input.high) + 1,
            length=fixed if fixed > 0 else None,
            generates=generates,
        )

    def domain(self, spec: InputSpec) -> Domain:
        """Random inputs of ``spec``, one description of this graph's input."""
        known = self.text.spec if self.text is not None else None
        return Domain(spec, text=known)

    @cached_property
    def facts(self) -> ModelFacts:
        """What is known before the graph is imported."""
        roles = self.taken.roles
        return ModelFacts(
            factory="onnx",
            checkpoint=self.request.checkpoint.name,
            parameters=sum(info.size for info in self.request.checkpoint.tensors.values() if info.dtype not in INDEX_DTYPES),
            graph={
                "inputs": [
                    {
                        "name": info.name,
                        "dtype": DTYPE_NAMES.get(info.element, ""),
                        "shape": None if info.shape is None else list(info.shape),
                    }
                    for info in self.taken.declared
                ],
                "outputs": list(self.taken.head.outputs),
                "input_used": roles.data.name,
                "output_used": self.taken.head.output,
                "filled": {
                    name: f"{fill.what}{'' if fill.what != 'number' else f' {fill.value:g}'}, by {fill.said}"
                    for name, fill in roles.fills.items()
                },
            },
        )

    def session(self, batch: int | None, *, optimise: bool) -> OrtSession:
        """onnxruntime on the graph; ``batch`` is the size it takes where the exporter fixed none."""
        return OrtSession(
            self.file,
            self.taken.data.name,
            self.file.model.graph.output[0].name,
            batch=baked_batch(self.taken.data) or batch,
            optimise=optimise,
            threads=torch.get_num_threads(),
        )

    def model(
        self,
        module: nn.Module,
        settled: Settled,
        facts: ModelFacts,
        *,
        batch: int | None = None,
        predictor: Predictor | None = None,
        stored: Mapping[str, str] | None = None,
    ) -> TorchModel:
        """``module`` as the model of this graph."""
        request = self.request
        shape = settled.values.shape[1:]
        # Of values for every token the last position is what the model answers with.
        width = shape[-1] if self.input.kind == "text" and len(shape) == 2 else int(np.prod(shape))
        names = _names(self.config, width)
        seen = Seen(settled.values, self.input, settled.size)
        kind, told = kind_of(self.file.model, self.taken.head, seen, self.config, request.samples, len(names))
        classes = 2 if kind == "classifier" and width == 1 else width
        spec = OutputSpec(kind, classes, "unknown", _names(self.config, classes), told)
        return TorchModel(
            module,
            self.input,
            spec,
            head=self.taken.head.head if kind in ("classifier", "multi-label") else "logits",
            batch=batch,
            undo="sigmoid" if told == PROBABILITY else None,
            predictor=predictor,
            text=self._read_text(generates=True) if kind == "language-model" else self.text,
            table=token_table(self.file.model, self.taken.data.name) if self.text is not None else None,
            stored=stored,
            facts=facts,
        )


def _names(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of the classes, where there are as many."""
    return output_spec(classes, "unknown", None, config).labels if classes > 1 else ()


def _differentiable(graph: _Graph, fixed: int | None = None) -> TorchModel:
    """``fixed`` is the number of inputs to be taken at once, None for any."""
    imported = import_graph(graph.file.model, graph.file.weight)
    settled = settle(graph, _on_torch(imported), imported.batch or fixed)
    if settled.edited:
        imported = import_graph(graph.file.model, graph.file.weight)
    batch = imported.batch or settled.batch
    precision = _precision(imported)
    module = _single(imported)
    opsets = {domain or "ai.onnx": version for domain, version in sorted(imported.opsets.items())}
    facts = replace(graph.facts, operators=dict(imported.operators), opsets=opsets)

    def model_of(batch: int | None) -> TorchModel:
        predictor = _Lazy(lambda: graph.session(batch, optimise=True))
        return graph.model(module, settled, facts, batch=batch, predictor=predictor, stored=imported.parameters)

    model = _any_batch(model_of, precision) if batch is None else model_of(batch)
    parity = _parity.check(model, graph.session(model.batch, optimise=False), precision, _first(model, graph.request.samples))
    model.facts = replace(model.facts, batch=model.batch, parity=parity, provider=PROVIDER)
    if model.text is not None and model.text.length is None:
        model.limit_length(_longest(model))
    return model


def _longest(model: TorchModel) -> int | None:
    """The most tokens of a graph of which nothing says so, such as the rows of its table of positions; None from :data:`LONG` on."""

    def runs(length: int) -> bool:
        try:
            with torch.no_grad():
                model(model.raw_random(1, seed=0, length=length))
        except ModelError:
            return False
        return True

    if runs(LONG):
        return None
    taken, refused = FREE, LONG
    while refused - taken > 1:
        middle = (taken + refused) // 2
        taken, refused = (middle, refused) if runs(middle) else (taken, middle)
    return taken


def _on_torch(imported: ImportedGraph) -> Run:
    def run(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.no_grad():
            value: npt.NDArray[Any] = imported.module(torch.from_numpy(x))[0].float().numpy()
        return value

    return run


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
    operators, unsupported = _coverage(graph.file.model)
    trees = [name for name in operators if "TreeEnsemble" in name]
    if trees and all("TreeEnsemble" in name for name in unsupported):
        name = trees[0].rpartition(":")[2]
        reason = f"it is made of decision trees ({name}), whose output is constant almost everywhere: there is no gradient"
    try:
        session = graph.session(None, optimise=False)
        settled = settle(graph, session, session.batch)
        session = graph.session(settled.batch, optimise=True)
    except ModelError as error:
        raise Skip(f"{reason}; {error.thing} {error.cause}") from error
    facts = replace(graph.facts, operators=operators, unsupported=unsupported, provider=PROVIDER, forward_only=reason)
    model = graph.model(_OnOrt(session, graph.input.dtype), settled, replace(facts, batch=session.batch))
    if session.batch is None and not _parity.independent(model, "quantised"):
        session = graph.session(1, optimise=True)
        model = graph.model(_OnOrt(session, graph.input.dtype), settled, replace(facts, batch=1))
    return model


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


def _single(imported: ImportedGraph) -> fx.GraphModule:
    """The imported module with its one output. Nodes carry their ONNX name and operator."""
    graph = imported.module.graph
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
