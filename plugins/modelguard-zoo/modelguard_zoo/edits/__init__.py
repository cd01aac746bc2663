"""Edits for tests: what can be done to a model's weights, done for real, so that true positives and true negatives are made, not stored.

Every edit is a pure function on ``{name: array}`` that returns the edited dict and an :class:`Edit`, the exact record of what was
done. Arrays keep their dtype (float64/32/16, and bfloat16 through ml_dtypes) and every edit rounds the way the real tool rounds.

* knowledge edits of a GPT-2-architecture language model: :func:`rome`, :func:`memit`, :func:`alphaedit`, :func:`emmet` (torch)
* training: :func:`fine_tune`, :func:`train_lora` (torch), :func:`merge_lora`
* storage: :func:`cast`, :func:`quantize_int8`, :func:`quantize_int4`, :func:`prune`, :func:`scale`
* tampering: :func:`flip_bits`, :func:`embed_payload`, :func:`craft_neurons`, :func:`poison_row`, :func:`add_noise`
* structure: :func:`permute`, :func:`merge`
* models to edit: :func:`train_lm`, :func:`load_capp_gpt`
"""

from __future__ import annotations

from modelguard_zoo.edits.arrays import Change, Edit, Tensors, add_in_dtype, bit_view, to_float
from modelguard_zoo.edits.knowledge import alphaedit, emmet, memit, rome
from modelguard_zoo.edits.lm import Fact, LanguageModel, covariance, load_capp_gpt, predict, recalled, train_lm
from modelguard_zoo.edits.storage import cast, prune, quantize_int4, quantize_int8, scale
from modelguard_zoo.edits.structure import merge, permute
from modelguard_zoo.edits.tampering import add_noise, craft_neurons, embed_payload, flip_bits, poison_row
from modelguard_zoo.edits.training import fine_tune, merge_lora, train_lora

__all__ = [
    "Change",
    "Edit",
    "Fact",
    "LanguageModel",
    "Tensors",
    "add_in_dtype",
    "add_noise",
    "alphaedit",
    "bit_view",
    "cast",
    "covariance",
    "craft_neurons",
    "embed_payload",
    "emmet",
    "fine_tune",
    "flip_bits",
    "load_capp_gpt",
    "memit",
    "merge",
    "merge_lora",
    "permute",
    "poison_row",
    "predict",
    "prune",
    "quantize_int4",
    "quantize_int8",
    "recalled",
    "rome",
    "scale",
    "to_float",
    "train_lm",
    "train_lora",
]
