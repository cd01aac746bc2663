"""The names that Hugging Face's checkpoints have for the tensors of a GGUF, and the order of rows that llama.cpp changes.

Both are part of what a GGUF's architecture (``general.architecture``) means: llama.cpp finds tensors by these names and, for ``llama``,
rotates pairs of neighbouring rows where transformers rotates halves of a head. Source: ``gguf-py/gguf/tensor_mapping.py`` and
``LlamaModel.permute`` of ``convert_hf_to_gguf.py`` in llama.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)")
_END = re.compile(r"(.+)\.(weight|bias)")

_LLAMA = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_QWEN3 = _LLAMA | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_PHI3 = {key: name for key, name in _LLAMA.items() if key not in ("attn_q", "attn_k", "attn_v", "ffn_gate")} | {
    "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj",
}  # fmt: skip
_PHI2 = {
    "token_embd": "model.embed_tokens", "output_norm": "model.final_layernorm", "output": "lm_head", "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2",
}  # fmt: skip
_STARCODER2 = {key: name for key, name in _LLAMA.items() if key != "ffn_gate"} | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
_GPT2 = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head",
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}  # fmt: skip
_BERT = {
    "token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings", "token_embd_norm": "embeddings.LayerNorm", "attn_q": "attention.self.query",
    "attn_k": "attention.self.key", "attn_v": "attention.self.value", "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm", "ffn_up": "intermediate.dense", "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}  # fmt: skip

_OUTSIDE = frozenset({"token_embd", "token_embd_norm", "token_types", "position_embd", "output_norm", "output"})
"""What is not in a layer."""
NAMES: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "llama": ("model.layers", _LLAMA),
        "qwen2": ("model.layers", _LLAMA),
        "qwen3": ("model.layers", _QWEN3),
        "stablelm": ("model.layers", _LLAMA),
        "phi2": ("model.layers", _PHI2),
        "phi3": ("model.layers", _PHI3),
        "starcoder2": ("model.layers", _STARCODER2),
        "gpt2": ("transformer.h", _GPT2),
        "bert": ("encoder.layer", _BERT),
    }
)
"""By architecture: the stack of layers, and the modules. Where converters change values (Gemma adds one to its norms) it is left out."""
_ROTATED = {"llama": {"attn_q": "head_count", "attn_k": "head_count_kv"}}
"""Modules whose rows a converter reorders, and what the metadata call their number of heads."""


def translate(architecture: str, names: Iterable[str]) -> dict[str, str]:
    """Hugging Face's name of each tensor; a name that is not known, or whose translation is another tensor's too, stays as it is."""
    found = {name: _translated(architecture, name) for name in names}
    counts = Counter([*found.values(), *(name for name, new in found.items() if name != new)])
    return {name: new if counts[new] == 1 else name for name, new in found.items()}


def heads(architecture: str, name: str, numbers: Mapping[str, int | None]) -> int:
    """How many heads the rows of the tensor ``name`` are of, where llama.cpp's order of rows is not transformers'; else 0.

    ``numbers`` are the model's ``head_count`` and ``head_count_kv``; the second is the first where it is absent.
    """
    block = _BLOCK.fullmatch(name)
    end = _END.fullmatch(block[2]) if block else None
    key = _ROTATED.get(architecture, {}).get(end[1]) if end else None
    if key is None:
        return 0
    return numbers.get(key) or numbers.get("head_count") or 0


def _translated(architecture: str, name: str) -> str:
    if architecture not in NAMES or (end := _END.fullmatch(name)) is None:
        return name
    stack, modules = NAMES[architecture]
    block = _BLOCK.fullmatch(end[1])
    key = block[2] if block else end[1]
    if key not in modules or (block is None) != (key in _OUTSIDE):
        return name
    return f"{stack}.{block[1]}.{modules[key]}.{end[2]}" if block else f"{modules[key]}.{end[2]}"
