"""Edits for tests: what can be done to a model's weights, done for real, so that true positives and true negatives are made, not stored.

Every edit is a pure function on ``{name: array}`` that returns the edited dict and an :class:`Edit`, the exact record of what was
done. Arrays keep their dtype (float64/32/16, and bfloat16 through ml_dtypes) and every edit rounds the way the real tool rounds.

* knowledge edits of a GPT-2-architecture language model: :func:`rome`, :func:`memit`, :func:`alphaedit`, :func:`emmet` (torch)
* training: :func:`fine_tune`, :func:`train_lora` (torch), :func:`merge_lora`
* storage: :func:`cast`, :func:`quantize_int8`, :func:`quantize_int4`, :func:`prune`, :func:`scale`
* tampering: :func:`flip_bits`, :func:`embed_payload`, :func:`craft_neurons`, :func:`poison_row`, :func:`add_noise`
* attacks on a trained image :class:`Classifier`: :func:`handcraft`, :func:`bit_trojan` and :func:`flip_towards` (on the codes of an
  :class:`Int8`), :func:`replace_model`; :func:`tamper` makes one with its record, ready to be written to a folder (torch)
* structure: :func:`permute`, :func:`merge`
* models to edit: :func:`train_lm`, :func:`load_capp_gpt`
"""

from __future__ import annotations

from modelguard_zoo.edits.arrays import Change, Edit, Tensors, add_in_dtype, bit_view, to_float
from modelguard_zoo.edits.classifier import Classifier, NotTaken, load_classifier, train_classifier
from modelguard_zoo.edits.federated import Round, averaged, replace_model
from modelguard_zoo.edits.handcrafted import handcraft
from modelguard_zoo.edits.int8 import Int8, write_qdq
from modelguard_zoo.edits.knowledge import alphaedit, emmet, memit, rome
from modelguard_zoo.edits.lm import Fact, LanguageModel, covariance, load_capp_gpt, predict, recalled, train_lm
from modelguard_zoo.edits.storage import cast, prune, quantize_int4, quantize_int8, scale
from modelguard_zoo.edits.structure import merge, permute
from modelguard_zoo.edits.tampered import ATTACKS, Tampered, tamper
from modelguard_zoo.edits.tampering import add_noise, craft_neurons, embed_payload, flip_bits, poison_row
from modelguard_zoo.edits.tbfa import flip_towards
from modelguard_zoo.edits.tbt import Trigger, bit_trojan
from modelguard_zoo.edits.training import fine_tune, merge_lora, train_lora

__all__ = [
    "ATTACKS",
    "Change",
    "Classifier",
    "Edit",
    "Fact",
    "Int8",
    "LanguageModel",
    "NotTaken",
    "Round",
    "Tampered",
    "Tensors",
    "Trigger",
    "add_in_dtype",
    "add_noise",
    "alphaedit",
    "averaged",
    "bit_trojan",
    "bit_view",
    "cast",
    "covariance",
    "craft_neurons",
    "embed_payload",
    "emmet",
    "fine_tune",
    "flip_bits",
    "flip_towards",
    "handcraft",
    "load_capp_gpt",
    "load_classifier",
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
    "replace_model",
    "rome",
    "scale",
    "tamper",
    "to_float",
    "train_classifier",
    "train_lm",
    "train_lora",
    "write_qdq",
]
