"""Sizes of its input that a graph leaves free and its constants tell: they are tried, and the first that runs is taken. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import isqrt, prod

import onnx

from modelguard import InputSpec

USUAL_IMAGES = ((224, 224), (48, 320), (32, 320), (64, 256), (256, 256), (320, 320), (416, 416), (512, 512), (640, 640))
"""Height and width of what image models are usually given, tried where a graph leaves them free and does not run on smaller ones."""
USUAL_LENGTHS = (128, 512, 576, 1024, 1536, 3000, 16000, 32000, 48000)
"""Steps of a sequence, likewise: frames of features, or 32 ms to 3 s of sound."""
USUAL_CHANNELS = (3, 1, 4)
TRIED = 24
"""Shapes that follow from constants and are tried."""
STRIDES = (1, 2, 4, 8, 16, 32, 14)
"""Pixels along a side for one of the map that weights of a fixed size look at: halvings, or patches."""
LINE = 320
"""Width of a line of text that is as high as a kernel."""
STEPS = 32
"""Steps of a sequence whose number is free beside a width that is told."""

_SAME = ("Identity", "Cast", "DequantizeLinear", "Dropout")
Dims = Mapping[str, tuple[int, ...]]


def shapes(model: onnx.ModelProto, spec: InputSpec) -> Iterator[InputSpec]:
    """``spec`` as it is, then with what it leaves free as the constants of the graph tell, then as usual."""
    yield spec
    if all(size > 0 for size in spec.shape):
        return
    said = spec.source.get("shape", "")
    picture = spec.kind == "image" and spec.layout != "NHW"
    dims = _dims(model)
    told = _maps(model, spec, dims) if picture else _rows(model, spec, dims)
    seen: set[tuple[int, ...]] = set()
    for source, found in (
        ("a size that the graph's constants tell", islice(told, TRIED)),
        ("the first usual size it runs on", _usual(spec, dims, model)),
    ):
        for shape in found:
            fits = all(have < 0 or have == want for have, want in zip(spec.shape, shape, strict=True))
            if fits and shape not in seen and min(shape) > 0:
                seen.add(shape)
                yield replace(spec, shape=shape, source={**spec.source, "shape": f"{said}, {source}"})


def _usual(spec: InputSpec, dims: Dims, model: onnx.ModelProto) -> Iterator[tuple[int, ...]]:
    if spec.kind == "image" and spec.layout != "NHW":
        for channels in _channels(model, spec, dims):
            yield from ((channels, *size) for size in USUAL_IMAGES)
    elif spec.kind != "text":
        yield from (tuple(length if size < 0 else size for size in spec.shape) for length in USUAL_LENGTHS)


def _rows(model: onnx.ModelProto, spec: InputSpec, dims: Dims) -> Iterator[tuple[int, ...]]:
    """Vectors, and sequences of them: as wide as the first weights that take them, or as long as makes that width."""
    if spec.kind == "text":
        return
    for width in _widths(model, dims):
        yield (*(STEPS if size < 0 else size for size in spec.shape[:-1]), width)
        known = prod(size for size in spec.shape if size > 0)
        if spec.shape.count(-1) == 1 and width % known == 0:
            yield tuple(width // known if size < 0 else size for size in spec.shape)


def _maps(model: onnx.ModelProto, spec: InputSpec, dims: Dims) -> Iterator[tuple[int, ...]]:
    """Images: lines of text as high as a kernel, and squares of which a layer behind the convolutions takes as many places as it has."""
    channels = _channels(model, spec, dims)
    for node in model.graph.node:
        kernel = _kernel(node, dims)
        if len(kernel) == 2 and kernel[0] > kernel[1] and kernel[0] > max(STRIDES[:3]):
            yield from ((count, kernel[0], max(LINE, kernel[0])) for count in channels)
    made = {dims[node.input[1]][0] for node in model.graph.node if node.op_type == "Conv" and len(dims.get(_second(node), ())) == 4}
    sides = dict.fromkeys(
        isqrt(area)
        for width in _widths(model, dims)
        for each in (1, *channels, *sorted(made, reverse=True))
        for area in ((width // each,) if width % each == 0 else ())
        if area > 1 and isqrt(area) ** 2 == area
    )
    # A table of positions has a place for every patch, and one or two for the whole.
    tables = [shape[-2] for shape in dims.values() if len(shape) in (2, 3) and prod(shape[:-2]) == 1]
    sides |= dict.fromkeys(
        isqrt(rows - more) for rows in tables for more in (1, 0, 2) if rows > 3 and isqrt(rows - more) ** 2 == rows - more
    )
    patches = [kernel[0] for node in model.graph.node if node.op_type == "Conv" and len(kernel := _kernel(node, dims)) == 2]
    steps = dict.fromkeys((*(patch for patch in patches[:1] if patch > 3), *STRIDES))
    yield from ((count, side * step, side * step) for step in steps for side in sides for count in channels if 8 <= side * step <= 1024)


def _channels(model: onnx.ModelProto, spec: InputSpec, dims: Dims) -> tuple[int, ...]:
    """How many channels an image may have: what is said, what the first convolution takes, or the usual."""
    if spec.shape[0] > 0:
        return (spec.shape[0],)
    for node in model.graph.node:
        kernel = dims.get(_second(node), ())
        if node.op_type in ("Conv", "QLinearConv", "ConvInteger") and len(kernel) == 4:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return (kernel[1] * groups,)
    return USUAL_CHANNELS


def _widths(model: onnx.ModelProto, dims: Dims) -> Iterable[int]:
    """Numbers of values that weights take, in the order of the graph, each once."""
    return dict.fromkeys(width for node in model.graph.node for width in _wanted(node, dims) if width > 1)


def _wanted(node: onnx.NodeProto, dims: Dims) -> Iterator[int]:
    given = {attribute.name: attribute for attribute in node.attribute}
    shapes = [dims[name] for name in node.input if name in dims]
    second = dims.get(_second(node), ())
    match node.op_type:
        case "Gemm" | "FusedGemm" if len(second) == 2:
            yield second["transB" in given and given["transB"].i == 1]
        case "MatMul" | "MatMulInteger" | "FusedMatMul" if len(second) >= 2:
            yield second[-2]
        case "LSTM" | "GRU" | "RNN" if len(second) == 3:
            yield second[2]
        case "LinearClassifier" | "LinearRegressor" if "coefficients" in given:
            rows = len(given["intercepts"].floats) if "intercepts" in given else 1
            yield len(given["coefficients"].floats) // max(1, rows)
        case "Scaler" | "Imputer":
            yield from (len(given[name].floats) for name in ("offset", "scale", "imputed_value_floats") if name in given)
        case "SVMClassifier" | "SVMRegressor" if "support_vectors" in given:
            coefficients = len(given["coefficients"].floats)
            yield len(given["support_vectors"].floats) // max(1, given["n_supports"].i if "n_supports" in given else coefficients)
        case kind if kind.startswith("TreeEnsemble") and "nodes_featureids" in given:
            yield max(given["nodes_featureids"].ints, default=0) + 1
        case "Add" | "Sub" | "Mul" | "Div" | "BatchNormalization" | "LayerNormalization":
            yield from (shape[-1] for shape in shapes if shape)


def _second(node: onnx.NodeProto) -> str:
    """The input that holds the weights of most operators."""
    place = 3 if node.op_type == "QLinearConv" else 1
    return node.input[place] if len(node.input) > place else ""


def _kernel(node: onnx.NodeProto, dims: Dims) -> tuple[int, ...]:
    """Height and width of what a convolution or pooling looks at."""
    said = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"), ())
    return said or (dims.get(_second(node), ())[2:] if node.op_type in ("Conv", "QLinearConv", "ConvInteger") else ())


def _dims(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each constant, by name."""
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            found[node.output[0]] = next((tuple(attribute.t.dims) for attribute in node.attribute if attribute.HasField("t")), ())
        elif node.op_type in _SAME and node.input and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        elif node.op_type == "Transpose" and node.input and node.input[0] in found:
            shape = found[node.input[0]]
            perm = next(
                (tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), tuple(reversed(range(len(shape))))
            )
            if sorted(perm) == list(range(len(shape))):
                found[node.output[0]] = tuple(shape[place] for place in perm)
    return found
