"""Which places of a network count as layers, and what kind each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx, nn
from torch.nn.modules import activation as activations

from modelguard import Layer

Kind = Literal["conv", "linear", "norm", "activation", "attention", "pool", "embedding", "block", "other"]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer before its unit axis is known; ``shape`` is that of the activation without the batch."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


def to_layers(places: Sequence[Place]) -> tuple[Layer, ...]:
    """The places as layers, each with the axis that counts its neurons.

    A convolution puts them first (C, H, W), a linear layer last (T, D). What follows keeps the axis of the layer before it, as long
    as that many neurons are there: an output of another layout (ConvNeXt mixes both) has them at the other end.
    """
    layers: list[Layer] = []
    axis, width, first = 0, -1, False
    for place in places:
        rank = len(place.shape)
        if place.kind == "conv":
            axis, width, first = 0, place.shape[0], True
        elif place.kind in ("linear", "embedding", "attention"):
            axis, width = -1, place.shape[-1]
        elif rank > 1:
            # A block of a convolutional network ends channels first, whatever its last layer was.
            wanted = 0 if place.kind == "block" and first and rank == 3 else axis
            axis = next((end for end in (wanted, -1 - wanted) if place.shape[end] == width), 0 if rank > 2 else -1)
            width = place.shape[axis]
        layers.append(Layer(place.name, place.kind, place.shape, 0 if rank == 1 else axis))
    return tuple(layers)


_ACTIVATIONS = tuple(
    getattr(activations, name) for name in activations.__all__ if name not in ("MultiheadAttention", "Softmax", "LogSoftmax", "Softmax2d")
)
_POOLS = ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "LPPool", "FractionalMaxPool")


def module_kind(root: nn.Module, name: str, module: nn.Module) -> Kind | None:
    """The kind of a module as a layer, or None when it is none (dropout, containers, reshapes)."""
    title = type(module).__name__
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return "conv"
    # transformers' GPT-2 calls its linear layer Conv1D: y = x W + b.
    if isinstance(module, (nn.Linear, nn.Bilinear)) or title == "Conv1D":
        return "linear"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) or title.endswith(("Norm", "Norm1d", "Norm2d", "Norm3d")):
        return "norm"
    if isinstance(module, _ACTIVATIONS) or title.endswith("Activation"):
        return "activation"
    if title.startswith(_POOLS):
        return "pool"
    if isinstance(module, nn.MultiheadAttention) or title.endswith("Attention"):
        return "attention"
    parent = root.get_submodule(name.rpartition(".")[0]) if "." in name else root
    if any(True for _ in module.children()) and isinstance(parent, (nn.ModuleList, nn.Sequential)):
        return "block"
    return None


_OPERATORS: dict[str, Kind] = {
    **dict.fromkeys(("conv", "convtranspose", "convinteger", "qlinearconv", "conv1d", "conv2d", "conv3d", "fusedconv", "nhwcconv"), "conv"),
    **dict.fromkeys(
        ("gemm", "linear", "linear_layer", "fusedgemm", "fusedmatmul", "matmulnbits", "qlinearmatmul", "qgemm", "addmm"), "linear"
    ),
    **dict.fromkeys(
        ("batchnormalization", "layernormalization", "instancenormalization", "groupnormalization", "rmsnormalization", "batch_norm",
         "simplifiedlayernormalization", "skiplayernormalization", "skipsimplifiedlayernormalization", "lrn", "layer_norm", "group_norm"),
        "norm",
    ),
    **dict.fromkeys(
        ("relu", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "fastgelu", "quickgelu", "biasgelu", "tanh", "sigmoid", "hardsigmoid",
         "hardswish", "swish", "silu", "mish", "softplus", "softsign", "thresholdedrelu", "clip", "relu6", "leaky_relu", "hardtanh"),
        "activation",
    ),
    **dict.fromkeys(("attention", "multiheadattention", "groupqueryattention", "scaled_dot_product_attention"), "attention"),
    **dict.fromkeys(
        ("maxpool", "averagepool", "globalaveragepool", "globalmaxpool", "lppool", "globallppool", "max_pool2d", "avg_pool2d",
         "adaptive_avg_pool2d", "adaptive_max_pool2d"),
        "pool",
    ),
    **dict.fromkeys(("embedlayernormalization", "embedding"), "embedding"),
}  # fmt: skip


def node_kind(module: fx.GraphModule, node: fx.Node) -> Kind | None:
    """The kind of an fx node as a layer, or None. Operators of an ONNX graph, and what was fused of several, are told by
    ``node.meta["op_type"]``.

    A product with a constant matrix is a linear layer; when a constant bias is added right after, the layer is that sum. The
    sum of two computed tensors is a residual ``block`` boundary.
    """
    if node.op == "call_module":
        return module_kind(module, str(node.target), module.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method"):
        return None
    operator = operator_name(node)
    if operator in ("matmul", "__matmul__", "mm", "bmm"):
        if not _has_constant(node):
            return None
        users = list(node.users)
        biased = len(users) == 1 and operator_name(users[0]) == "add" and _has_constant(users[0])
        return None if biased else "linear"
    if operator == "add":
        inputs = [arg for arg in node.all_input_nodes if not is_constant(arg)]
        if len(inputs) == 1 and _has_constant(node) and operator_name(inputs[0]) == "matmul" and _has_constant(inputs[0]):
            return "linear"
        return "block" if len(inputs) == 2 else None
    if operator == "gather":
        data = node.all_input_nodes[0] if node.all_input_nodes else None
        return "embedding" if data is not None and is_constant(data) else None
    return _OPERATORS.get(operator)


def operator_name(node: fx.Node) -> str:
    """The operator a node stands for, in lower case: its ONNX op type when it has one, else the function's name."""
    target: Any = node.meta.get("op_type") or (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
    return str(target).lower()


def is_constant(node: fx.Node) -> bool:
    """Whether the node is a parameter or a constant."""
    return node.op == "get_attr"


def _has_constant(node: fx.Node) -> bool:
    return any(is_constant(arg) for arg in node.all_input_nodes)
