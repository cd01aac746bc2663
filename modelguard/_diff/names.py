"""What a tensor's name says: its layer, its module, and the part it plays. Names are hints, never evidence."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<=[._/])(\d+)(?=[._/])")
_MLP_OUT = re.compile(
    r"(mlp\.c_proj|mlp\.fc_out|mlp\.down_proj|feed_forward\.w2|feed_forward\.down_proj|mlp\.dense_4h_to_h|mlp\.fc2|\.fc2|"
    r"DenseReluDense\.wo|ffn\.out_proj|ffn\.w2|output\.dense|experts\.\d+\.(w2|down_proj)|mlp\.proj_out|mlp\.w2)(\.weight)?$"
)
_EMBEDDING = re.compile(r"(^|[._/])(wte|embed_tokens|word_embeddings|tok_embeddings|embed_in|token_embd|shared)(\.|$)")
_HEAD = re.compile(r"(^|[._/])(lm_head|embed_out|output_layer|classifier|score)(\.|$)")


def layer(name: str) -> int | None:
    """The layer index: the first number between separators, or None."""
    found = _NUMBER.search(f".{name}.")
    return int(found[1]) if found else None


def pattern(name: str) -> str:
    """The name with its layer index replaced by ``{}``: tensors that share it are siblings over depth."""
    return _NUMBER.sub("{}", f".{name}.", count=1)[1:-1]


def module(name: str) -> str:
    """The name without its last part (``weight``, ``bias``)."""
    return re.split(r"[._/](?=[^._/]+$)", name)[0] if re.search(r"(weight|bias|scale|zero_point|kernel)$", name) else name


def is_mlp_output(name: str) -> bool:
    """Whether the name is that of an MLP's output projection, where knowledge edits go."""
    return _MLP_OUT.search(name) is not None and "attention.output" not in name


def is_embedding(name: str) -> bool:
    """Whether the name is that of a token embedding."""
    return _EMBEDDING.search(name) is not None


def is_head(name: str) -> bool:
    """Whether the name is that of an output head."""
    return _HEAD.search(name) is not None
