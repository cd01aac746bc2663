"""An ONNX checkpoint as a runnable model: taken apart, imported, described, and held against onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from modelguard._inputs import spec
from modelguard._inputs.agreement import output_spec
from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Skip
from modelguard.errors import ModelError
from modelguard.model import InputSpec, ModelOptions, Samples
from modelguard_runtime import parity
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
from modelguard_runtime.onnx_file import OnnxFile
from modelguard_runtime.onnx_head import Head, take_off
from modelguard_runtime.ort import PROVIDER, OrtSession
from modelguard_runtime.text import tokenizer
from modelguard_runtime.torch_model import TorchModel

if TYPE_CHECKING:
    import numpy.typing as npt

NUMPY_DTYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64"}

INDEX_DTYPES = ("I64", "I32", "U64", "U32", "BOOL")
"""Of initializers, the element types of shapes and indices rather than weights."""


def _mask(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.ones_like(x, dtype=torch.int64) if pad is None else (x != pad).to(torch.int64)


def _zeros(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.zeros_like(x, dtype=torch.int64)


def _positions(x: torch.Tensor, pad: int | None) -> torch.Tensor:
    return torch.arange(x.shape[1], device=x.device).expand(x.shape[0], x.shape[1])


FILLED: Mapping[str, Callable[[torch.Tensor, int | None], torch.Tensor]] = {
    "attention_mask": _mask,
    "token_type_ids": _zeros,
    "position_ids": _positions,
}
"""Inputs of transformer exports that follow from the token ids and the padding token."""


def build(artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> TorchModel:
    """Build the model on the CPU, checked for parity.

    A graph with an operator or opset we lack runs forward only, on onnxruntime; one whose batch size cannot be freed runs in chunks.
    Raises :class:`ModelError` when the graph is malformed or parity fails.
    """
    file = OnnxFile.load(artifact, checkpoint)
    check_size(file.model, GraphLimits())
    head = take_off(file.model)
    inputs = _inputs(file.model)
    main = _main_input(inputs)
    config = {**_class_labels(file.model), **artifact_json(artifact, checkpoint, "config.json")}
    pad = config.get("pad_token_id")
    pad = pad if isinstance(pad, int) else None
    extra = _extra(inputs, main, pad)
    described = _describe_input(artifact, checkpoint, file.model, main, samples, options, config)
    facts: dict[str, Any] = {
        "factory": "onnx",
        "checkpoint": checkpoint.name,
        "parameters": sum(info.size for info in checkpoint.tensors.values() if info.dtype not in INDEX_DTYPES),
        "graph": {
            "inputs": [{"name": info.name, "dtype": info.dtype, "shape": _shape(info)} for info in inputs],
            "outputs": list(head.outputs),
            "input_used": main.name,
            "output_used": head.output,
        },
    }
    try:
        imported = import_graph(file.model, file.weight)
    except UnsupportedError as reason:
        return _forward_only(file, head, main, extra, described, samples, options, config, facts, str(reason))
    facts["operators"] = dict(imported.operators)
    facts["opsets"] = {domain or "ai.onnx": version for domain, version in sorted(imported.opsets.items())}
    baked = _baked_batch(main)
    precision = _precision(imported)
    module = _single(imported, main, pad)
    encode = tokenizer(artifact, checkpoint, pad or 0, left=False) if described.kind == "text" else None

    def session(batch: int | None, optimise: bool) -> OrtSession:
        name, threads = file.model.graph.output[0].name, torch.get_num_threads()
        return OrtSession(file, main.name, name, batch=baked or batch, extra=extra, optimise=optimise, threads=threads)

    def model_of(batch: int | None) -> TorchModel:
        fast = _Lazy(lambda: session(batch, True))
        return TorchModel(
            module,
            described,
            lambda width, kind: output_spec(width, kind, samples, config),
            head=head.head,
            batch=batch,
            predictor=fast,
            encode=encode,
            facts=facts,
        )

    model = _any_batch(model_of, precision) if imported.batch is None else model_of(imported.batch)
    if model.batch is not None:
        model.facts["batch"] = model.batch
    model.facts["parity"] = parity.check(model, session(model.batch, False), precision, _first(model, samples))
    model.facts["provider"] = PROVIDER
    return model


def _any_batch(model_of: Callable[[int | None], TorchModel], precision: str) -> TorchModel:
    """The model that takes any batch as it is; one input at a time where the graph only pretends to.

    The legacy exporter freezes ``len(x)`` and still declares a free batch: such a graph fails on other batches, or mixes the inputs.
    """
    try:
        model = model_of(None)
    except ModelError:
        return model_of(1)
    return model if parity.independent(model, precision) else model_of(1)


def _forward_only(
    file: OnnxFile,
    head: Head,
    main: ValueInfo,
    extra: Any,
    described: InputSpec,
    samples: Samples | None,
    options: ModelOptions,
    config: Mapping[str, Any],
    facts: dict[str, Any],
    reason: str,
) -> TorchModel:
    """The model on onnxruntime alone: no gradients, no layers."""
    name, batch, threads = file.model.graph.output[0].name, _baked_batch(main), torch.get_num_threads()
    try:
        session = OrtSession(file, main.name, name, batch=batch, extra=extra, optimise=True, threads=threads)
    except ModelError as error:
        raise Skip(f"{reason}; {error.thing} {error.cause}") from error
    facts |= {"provider": PROVIDER, "forward_only": reason, "parity": None, **_coverage(file.model)}
    return TorchModel(
        _OnOrt(session, described.dtype),
        described,
        lambda width, kind: output_spec(width, kind, samples, config),
        head=head.head,
        facts=facts,
    )


def _class_labels(model: onnx.ModelProto) -> dict[str, Any]:
    """The names an ``ai.onnx.ml`` classifier gives its classes, as config.json would say them."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.domain == "ai.onnx.ml" and attribute.name == "classlabels_strings":
                names = [name.decode("utf-8", "replace") for name in attribute.strings]
                return {"id2label": {str(place): name for place, name in enumerate(names)}}
    return {}


def _coverage(model: onnx.ModelProto) -> dict[str, Any]:
    """The operators of a graph that was not imported, and those of them that are in no table; subgraphs and functions are left out."""
    own = {(function.domain, function.name) for function in model.functions}
    counts = Counter((domain_of(node.domain), node.op_type) for node in model.graph.node if (node.domain, node.op_type) not in own)
    named = {(f"{domain}:{name}" if domain else name)[:120]: (domain, name) for domain, name in counts}
    known = supported()
    lacking = sorted(label for label, key in named.items() if key not in known)
    return {"operators": {label: counts[key] for label, key in sorted(named.items())}, "unsupported": lacking}


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


def _inputs(model: onnx.ModelProto) -> tuple[ValueInfo, ...]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(ValueInfo.of(info) for info in model.graph.input if info.name not in stored)


def _main_input(inputs: tuple[ValueInfo, ...]) -> ValueInfo:
    """The input samples go to: the only one, or the only one that is not filled from it."""
    left = [info for info in inputs if info.name not in FILLED]
    if len(left) != 1:
        names = ", ".join(repr(info.name[:40]) for info in left[:5]) or "none"
        raise ModelError("graph", f"has {len(left)} inputs ({names})", "export the model with one input")
    if left[0].dtype not in NUMPY_DTYPES:
        raise ModelError(f"input {left[0].name[:80]!r}", f"has element type {left[0].dtype or 'unknown'}", "export it with a float32 input")
    return left[0]


def _extra(
    inputs: tuple[ValueInfo, ...], main: ValueInfo, pad: int | None
) -> Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[Any]]] | None:
    """The other inputs, for onnxruntime."""
    others = [(info.name, NUMPY_DTYPES.get(info.dtype, "int64")) for info in inputs if info is not main]
    if not others:
        return None

    def fill(x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        tensor = torch.from_numpy(x)
        return {name: np.ascontiguousarray(FILLED[name](tensor, pad).numpy().astype(dtype)) for name, dtype in others}

    return fill


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


def _describe_input(
    artifact: Artifact,
    checkpoint: Checkpoint,
    model: onnx.ModelProto,
    main: ValueInfo,
    samples: Samples | None,
    options: ModelOptions,
    config: Mapping[str, Any],
) -> InputSpec:
    hints = [spec.parse_option(options.input)] if options.input else []
    if len(main.shape or ()) in (0, 3) and samples is None and not hints and main.shape is None:
        raise ModelError("input", "has no shape in the graph", "say --input shape=3x224x224")
    declared = spec.from_graph(main.shape, NUMPY_DTYPES[main.dtype], samples=samples)
    if declared.kind == "text":
        vocabulary = _vocabulary(model, main.name) or config.get("vocab_size")
        high = float(vocabulary - 1) if isinstance(vocabulary, int) and vocabulary > 1 else None
        hints.append(spec.Hints("embedding in the graph", low=0.0, high=high))
    hints.append(declared)
    hints.append(spec.from_metadata({entry.key: entry.value for entry in model.metadata_props}))
    preprocessor = artifact_json(artifact, checkpoint, "preprocessor_config.json")
    if preprocessor and declared.kind == "image":
        hints.append(spec.from_preprocessor(preprocessor))
    return spec.resolve(hints, samples)


_SAME_IDS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that leave token ids what they are."""
_SAME_ROWS = ("Identity", "Cast", "DequantizeLinear")
"""Operators that leave a table its rows."""


def _vocabulary(model: onnx.ModelProto, ids: str) -> int | None:
    """Rows of the embedding that the token ids look up."""
    rows = {tensor.name: int(tensor.dims[0]) for tensor in model.graph.initializer if len(tensor.dims) == 2}
    named = {ids}
    for node in model.graph.node:
        given, made = node.input[0] if node.input else "", node.output[0] if node.output else ""
        if node.op_type in _SAME_ROWS and given in rows:
            rows[made] = rows[given]
        elif node.op_type in _SAME_IDS and given in named:
            named.add(made)
        elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in named and given in rows:
            return rows[given]
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) > 2 and given in named and node.input[2] in rows:
            return rows[node.input[2]]
    return None


def _baked_batch(main: ValueInfo) -> int | None:
    first = main.shape[0] if main.shape else None
    return first if isinstance(first, int) and first > 0 else None


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
    few = replace(samples, inputs=samples.inputs[: parity.SAMPLES], labels=None)
    return model.inputs(few)


def _shape(info: ValueInfo) -> list[Any] | None:
    return None if info.shape is None else list(info.shape)
