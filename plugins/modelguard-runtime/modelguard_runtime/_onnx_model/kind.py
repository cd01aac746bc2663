"""What kind of output an ONNX graph has: told by what the files say, by its structure, and by its values. Unknown is unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from modelguard import InputSpec, Samples
from modelguard_runtime._onnx_model.head import Head
from modelguard_runtime._onnx_model.roles import LONGEST

if TYPE_CHECKING:
    import numpy.typing as npt

Kind = Literal[
    "classifier", "multi-label", "detection", "dense", "sequence", "embedding", "regressor", "language-model", "unknown"
]  # fmt: skip

_ARCHITECTURES: tuple[tuple[str, Kind], ...] = (
    (r"For(Image|Sequence|Audio|Video)Classification|XVector", "classifier"),
    (r"For(TokenClassification|CTC|AudioFrameClassification|QuestionAnswering)", "sequence"),
    (r"For(CausalLM|MaskedLM|ConditionalGeneration|Seq2SeqLM|SpeechSeq2Seq)|LMHeadModel", "language-model"),
    (r"For((Semantic|Instance|Universal)Segmentation|DepthEstimation|ImageSuperResolution|MaskedImageModeling)", "dense"),
    (r"ForObjectDetection", "detection"),
    (r"(Model|Encoder|Pooler|TextEncoder|Projection)$", "embedding"),
)  # fmt: skip
"""What transformers' class names say of the output."""
_BOXES = re.compile(r"box|bbox|loc(ation)?s?$|anchor|detect|dets?$|pred_boxes|landmark|kps|keypoint", re.I)
_EMBEDS = re.compile(
    r"embed|(^|_)emb(_|s|\d|$)|feat(ure)?s?($|_)|descriptor|pooler|hidden_state|sentence_|x_?vector|encod|(^|_)vec(tor)?s?$", re.I
)
_CLASSES = re.compile(r"logit|prob|score|class|label|categor", re.I)
_MAPS = re.compile(r"mask|seg|depth|alpha|matte|saliency|heat_?map|restor|upscal|super", re.I)
_PLAIN = (
    "Identity",
    "Cast",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Dropout",
    "Transpose",
    "DequantizeLinear",
    "QuantizeLinear",
    "Mul",
    "Normalizer",
)
"""Operators that leave it to those before them what the output is; a product scales logits."""
_LINEAR = (
    "Gemm",
    "MatMul",
    "Conv",
    "FusedGemm",
    "FusedMatMul",
    "QLinearMatMul",
    "QGemm",
    "QLinearConv",
    "MatMulInteger",
    "ConvInteger",
    "MatMulNBits",
    "Einsum",
)
_WIDTHS = frozenset((64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 576, 640, 768, 960, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 4096))
"""Widths that embeddings have, and hardly any task of that many classes."""
PROBABILITY = "a probability"
"""What tells a classifier whose one value is a probability, of which no sigmoid could be taken off."""
WALKED = 64
"""Nodes that are looked at from the output back."""
_STRIDES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the graph returned: ``values`` (N, ...) for N random inputs, batch first, before a head was undone."""

    values: npt.NDArray[Any]
    input: InputSpec
    size: tuple[int, ...]
    """Sizes of the input it was run on, without the batch, in canonical order."""


def kind_of(
    model: onnx.ModelProto, head: Head, seen: Seen, config: Mapping[str, Any], samples: Samples | None, names: int
) -> tuple[Kind, str]:
    """The kind of output, and what told. ``names`` counts the class names that are known.

    What the user says comes first (pooled positions are classes), then the files beside the graph, then labels that fit one row of values
    an input, then structure and values.
    """
    shape = seen.values.shape[1:]
    width = int(np.prod(shape)) if shape else 1
    row = len([size for size in shape if size != 1]) <= 1
    if head.pooling:
        return "classifier", "--model-output"
    said = _said(config, {entry.key: entry.value for entry in model.metadata_props})
    if said is not None and said[0] not in ("classifier", "multi-label", "regressor"):
        return said
    if said is not None and row:
        return said
    if row and samples is not None and samples.labels is not None and _labelled(samples, width):
        return "classifier", "the samples' labels"
    if seen.input.kind == "text" and len(shape) == 2:
        return _of_tokens(head, shape, seen.input)
    if not row:
        return _of_positions(model, head, seen, shape)
    if (moves := head.shape) is not None and len(moves) == 2 and isinstance(moves[1], str) and "seq" in moves[1].lower():
        return "sequence", "the name of its dimension"
    if width > 1 and _grows(model, head, seen):
        return "sequence", "a free dimension beside its values"
    return _of_row(model, head, seen.values.reshape(len(seen.values), width), names)


def _said(config: Mapping[str, Any], metadata: Mapping[str, str]) -> tuple[Kind, str] | None:
    problem = config.get("problem_type")
    if problem == "regression":
        return "regressor", "config.json"
    if problem == "multi_label_classification":
        return "multi-label", "config.json"
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        for pattern, kind in _ARCHITECTURES:
            if re.search(pattern, str(name)[:LONGEST]):
                return kind, "config.json"
    tasks: Mapping[str, Kind] = {
        "detect": "detection",
        "obb": "detection",
        "pose": "detection",
        "segment": "detection",
        "classify": "classifier",
    }
    task = metadata.get("task", "")
    return (tasks[task], "ONNX metadata") if task in tasks else None


def _grows(model: onnx.ModelProto, head: Head, seen: Seen) -> bool:
    """Whether the output has an axis of which there is one in what was seen, and as many as a longer input has."""
    declared, found = head.shape or (), seen.values.shape
    picture = seen.input.kind == "image" and seen.input.layout in ("NCHW", "NHWC")
    free = any(not dim.HasField("dim_value") for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
    pairs = zip(declared[1:], found[1:], strict=True) if len(declared) == len(found) else ()
    return free and not picture and any(isinstance(dim, str) and size == 1 for dim, size in pairs)


def _labelled(samples: Samples, width: int) -> bool:
    labels = samples.labels
    assert labels is not None
    if width == 1:
        return bool(np.array_equal(np.unique(labels), [0, 1]))
    return bool(labels.max(initial=0) < width)


def _of_tokens(head: Head, shape: tuple[int, ...], spec: InputSpec) -> tuple[Kind, str]:
    """Values for every token."""
    if shape[1] == spec.high + 1:
        return "language-model", "a value for every token of the vocabulary"
    if _EMBEDS.search(head.output[:LONGEST]) or shape[1] in _WIDTHS:
        return "embedding", "a vector for every token"
    return "sequence", "values for every token"


def _of_positions(model: onnx.ModelProto, head: Head, seen: Seen, shape: tuple[int, ...]) -> tuple[Kind, str]:
    """Values at several places of one input."""
    names = " ".join(name[:LONGEST] for name in (head.output, *head.outputs[:LONGEST]))
    boxes = _BOXES.search(names) is not None or any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    picture = seen.input.kind == "image" and seen.input.layout in ("NCHW", "NHWC")
    classes = head.head in ("softmax", "log-softmax")
    wide = tuple(size for size in shape if size != 1)
    if len(wide) >= 3 or (len(shape) >= 3 and picture and not classes):
        if boxes or len(shape) == 4:
            return "detection", "boxes at the places of a map"
        return "dense", "values at every place of a map"
    shape = wide
    if picture and not classes:
        places, values = max(shape), min(shape)
        if boxes or (values >= 4 and _anchors(places, seen.size[1:])):
            return "detection", "values for the boxes of a grid"
        if head.output.lower() in ("alphas", "matte") or _MAPS.search(head.output[:LONGEST]):
            return "dense", "the name of the output"
        if shape == seen.size[1:]:
            return "dense", "a value for every pixel"
    if _EMBEDS.search(head.output[:LONGEST]):
        return "embedding", "the name of the output"
    return "sequence", "values at every position"


def _anchors(places: int, size: tuple[int, ...]) -> bool:
    """Whether there is a place for every cell of one or several neighbouring feature maps of an image of ``size``, or some of each."""
    cells = [ceil(size[0] / stride) * ceil(size[1] / stride) for stride in _STRIDES]
    sums = {sum(cells[a:b]) for a in range(len(cells)) for b in range(a + 1, len(cells) + 1)}
    return places >= 16 and any(places == each * total for total in sums for each in (1, 2, 3, 4, 6, 9))


def _of_row(model: onnx.ModelProto, head: Head, values: npt.NDArray[Any], names: int) -> tuple[Kind, str]:
    """One row of values an input."""
    width = values.shape[1]
    ending = _ending(model)
    if head.head == "sigmoid":
        return ("classifier", "a sigmoid of two classes") if width == 1 else ("multi-label", "a sigmoid a label")
    if head.head in ("softmax", "log-softmax") or _softmax(values):
        return "classifier", "a softmax"
    if names:
        return "classifier", "the names of its classes"
    if ending.endswith("Classifier"):
        return "classifier", f"it ends in {ending}"
    if width == 1:
        within = bool(((values >= 0) & (values <= 1)).all())
        return ("classifier", PROBABILITY) if within and _behind_sigmoid(model) else ("regressor", "one value")
    if _EMBEDS.search(head.output[:LONGEST]):
        return "embedding", "the name of the output"
    if ending in ("LpNormalization", "unit"):
        return "embedding", "rows of length one"
    if _BOXES.search(head.output[:LONGEST]):
        return "regressor", "the name of the output"
    if _CLASSES.search(head.output[:LONGEST]):
        return "classifier", "the name of the output"
    if ending in ("Tanh", "Clip", "HardSigmoid", "HardTanh"):
        return "regressor", f"it ends in {ending}"
    if width in _WIDTHS:
        return "unknown", f"it has {width} values and no names of classes: classes, or an embedding"
    if ending == "linear" and width > 2 and _opinions(values):
        return "unknown", "its values are of one sign and one magnitude, which logits are not"
    if ending == "linear":
        return "classifier", "one linear layer at the end"
    return "unknown", f"it ends in {ending}"


def _opinions(values: npt.NDArray[Any]) -> bool:
    """Whether all values lie on one side of zero, none nearer to it than a quarter of the farthest: several scores, not logits, of which
    training by cross-entropy moves some up as far as others down. Columns that do not differ at all are of an untrained network."""
    sizes = np.abs(values)
    differ = np.ptp(values, axis=1).max() > sizes.max() / 100
    return bool(((values > 0).all() or (values < 0).all()) and sizes.min() > sizes.max() / 4 and differ)


def _softmax(values: npt.NDArray[Any]) -> bool:
    """Rows that sum to one, exponentiated or not. Only what spreads does: a graph that returns a constant says nothing."""
    if values.shape[1] < 2 or not np.isfinite(values).all():
        return False
    rows = values.astype(np.float64)
    plain = (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3)
    return bool(plain or ((rows <= 0).all() and np.allclose(np.exp(rows).sum(1), 1, atol=1e-3)))


def _ending(model: onnx.ModelProto) -> str:
    """The operator whose result the output is: ``linear`` for a layer of weights (with its bias, normalised, or averaged over places),
    ``unit`` for a division by a norm, else its name."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    stored = {tensor.name for tensor in model.graph.initializer} | {
        name for node in model.graph.node if node.op_type == "Constant" for name in node.output
    }
    name = model.graph.output[0].name
    for _ in range(len(model.graph.node) + 1):
        node = makers.get(name)
        if node is None or not node.input:
            return "what it is given"
        computed = [item for item in node.input if item and item not in stored]
        kind = str(node.op_type)
        if kind in _LINEAR:
            return "linear"
        if kind == "Div" and len(computed) == 2 and _is_norm(makers, computed[1]):
            return "unit"
        if kind in _PLAIN or (kind in ("Add", "Sub", "Div", "BatchNormalization") and len(computed) == 1):
            if not computed:
                return kind
            name = computed[0]
            continue
        if kind in ("GlobalAveragePool", "ReduceMean", "AveragePool"):
            return "linear"  # a convolution a class, averaged over places
        if kind in ("Add", "Sub") and all(makers.get(item) is not None and makers[item].op_type in _LINEAR for item in computed):
            return "linear"
        return kind
    return "what it is given"


def _behind_sigmoid(model: onnx.ModelProto) -> bool:
    """Whether nothing but an average and changes of shape stands between a sigmoid and the output, in a branch of an If too."""
    waiting: list[tuple[str, tuple[onnx.GraphProto, ...]]] = [(model.graph.output[0].name, (model.graph,))]
    for _ in range(WALKED):
        if not waiting:
            return False
        name, scopes = waiting.pop()
        found = next(((place, node) for place, graph in enumerate(scopes) for node in graph.node if name in node.output), None)
        if found is None:
            continue
        place, node = found
        if node.op_type == "Sigmoid":
            return True
        if node.op_type == "If":
            which = list(node.output).index(name)
            branches = [item.g for item in node.attribute if len(item.g.output) > which]
            waiting += [(branch.output[which].name, (branch, *scopes[place:])) for branch in branches]
        elif node.op_type in (*_PLAIN, "ReduceMean", "Concat"):
            waiting += [(item, scopes[place:]) for item in node.input[:1]]
    return False


def _is_norm(makers: Mapping[str, onnx.NodeProto], name: str) -> bool:
    """Whether the tensor is the length of rows: ReduceL2, or the root of a sum of squares, however it is clipped and expanded."""
    for _ in range(8):
        node = makers.get(name)
        if node is None or not node.input:
            return False
        if node.op_type in ("ReduceL2", "Sqrt"):
            return True
        if node.op_type not in ("Clip", "Max", "Expand", "Add", "Unsqueeze", "Reshape", "Identity", "Cast"):
            return False
        name = node.input[0]
    return False
