"""Which tensors are MLP output projections, in which layer; which one is the unembedding.

ROME-family editors write to the matrix that leads out of a transformer block's MLP. Names come from the public model classes
(transformers) and the editors' own configuration files (kmeng01/rome, EasyEdit); what has no known name is judged by shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from modelguard import Target, TensorInfo

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes whose weights can be compared number by number."""

_OUTPUT = re.compile(
    r"(?:mlp\.c_proj|mlp\.fc_out|mlp\.dense_4h_to_h|mlp\.down_proj|ffn\.down_proj|mlp\.fc2|feed_forward\.w2|mlp\.w2"
    r"|mlp\.shared_experts?\.down_proj|mlp\.experts\.(?:\d+\.)?down_proj|experts\.\d+\.w2|DenseReluDense\.wo"
    r"|layers\.\d+\.fc2|layer\.\d+\.output\.dense|ffn\.lin2)(?:\.weight)?$"
)
_INPUT = re.compile(r"(?:up_proj|gate_proj|gate_up_proj|c_fc|fc_in|dense_h_to_4h|fc1|w1|w3|lin1|intermediate\.dense)(?:\.weight)?$")
_NOT_MLP = re.compile(r"attn|attention|qkv|[._][qkvo]_proj|embed|wte|wpe|lm_head|norm|conv|router|lora_")
_LAYER = re.compile(r"(?:^|[._])(?:h|layers?|blocks?|block|encoder|decoder|resblocks)[._](\d+)(?:[._]|$)")
_PREFIX = re.compile(r"^(?:(?:module|_orig_mod|base_model|model|transformer|language_model)\.)+")
_UNEMBEDDING = ("lm_head.weight", "embed_out.weight", "output_layer.weight", "output.weight")
_EMBEDDING = ("wte.weight", "embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
_FINAL_NORM = re.compile(r"(?:ln_f|final_layer_norm|final_layernorm|model\.norm|(?<!\w)norm)\.weight$")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a matrix stands: ``layer`` number or None, ``module`` its name with the layer number taken out, and how it is known.

    ``role`` is ``mlp-output`` (a known name), ``mlp`` (an MLP matrix by its shape; which side is not known) or ``other``.
    """

    layer: int | None
    module: str
    role: str


def bare(name: str) -> str:
    """The name without the wrappers that saving a model in another way puts in front of it."""
    return _PREFIX.sub("", name)


def site_of(tensor: TensorInfo, width: int | None) -> Site:
    """Where ``tensor`` stands, given the model's hidden ``width`` where it is known."""
    found = list(_LAYER.finditer(tensor.name))
    layer = int(found[0].group(1)) if found else None
    module = tensor.name
    if found:
        module = tensor.name[: found[0].start(1)] + "*" + tensor.name[found[0].end(1) :]
    return Site(layer, bare(module), _role(tensor, layer, width))


def _role(tensor: TensorInfo, layer: int | None, width: int | None) -> str:
    if len(tensor.shape) not in (2, 3) or tensor.dtype not in FLOATS:
        return "other"
    if _OUTPUT.search(tensor.name) and "attention" not in tensor.name:
        return "mlp-output"
    if layer is None or len(tensor.shape) != 2 or _NOT_MLP.search(tensor.name) or _INPUT.search(tensor.name):
        return "other"
    short, long = sorted(tensor.shape)
    fits = width is None or short == width
    return "mlp" if fits and 2 * short <= long <= 8 * short else "other"


def hidden_width(tensors: list[TensorInfo]) -> int | None:
    """The hidden width d: the length that most matrices with a layer number have as a side."""
    counts: dict[int, int] = {}
    for tensor in tensors:
        if len(tensor.shape) == 2 and _LAYER.search(tensor.name):
            for side in set(tensor.shape):
                counts[side] = counts.get(side, 0) + 1
    return max(counts, key=lambda side: (counts[side], -side)) if counts else None


def find_unembedding(tensors: list[TensorInfo], width: int) -> TensorInfo | None:
    """The matrix (vocabulary, ``width``) that turns hidden states into logits: the head, else the (tied) embedding."""
    for endings in (_UNEMBEDDING, _EMBEDDING):
        for tensor in tensors:
            if tensor.name.endswith(endings) and len(tensor.shape) == 2 and tensor.shape[1] == width and tensor.dtype in FLOATS:
                return tensor
    return None


def find_final_norm(tensors: list[TensorInfo], width: int) -> TensorInfo | None:
    """The scale (``width``,) of the norm before the unembedding."""
    fitting = (tensor for tensor in tensors if tensor.shape == (width,) and tensor.dtype in FLOATS)
    return next((tensor for tensor in fitting if _FINAL_NORM.search(tensor.name) and not _LAYER.search(tensor.name)), None)


def projections_of(target: Target) -> dict[str, Site]:
    """Where each tensor stands, by name. What is only known by shape counts as a projection when nothing is known by name."""
    tensors = [tensor for _, tensor in target.walk()]
    width = hidden_width(tensors)
    places = {tensor.name: site_of(tensor, width) for tensor in tensors}
    if any(where.role == "mlp-output" for where in places.values()):
        return {name: replace(where, role="other") if where.role == "mlp" else where for name, where in places.items()}
    return places
