"""What the numbers of the searches for edits are called and mean, and which are drawn."""

from __future__ import annotations

from modelguard import Chart, Measure

_TOKENS = Measure(
    "tokens", "tokens it promotes", "What the added direction makes the model say, read off with the model's own output matrix."
)
_LAYER = Measure("layer", "layer", "The layer, counted from 0.")
EDIT = (
    Chart("map", "edits", "Where projections changed: relative change by layer and module", "tensor", "relative_norm"),
    Chart("bars", "spectrum", "Singular values of the change, with the rank found", marked="rank"),
    Chart("words", "tokens", "Tokens that the edit promotes", value="promotes"),
    Measure("score", "score", "How surely a fact was written into the weights, from 0 to 1."),
    Measure("verdict", "kind of change", "What was done to the projections as a whole."),
    Measure("projections", "projections", "How many MLP output projections were compared: where facts are stored, and where edits go."),
    Measure("changed_projections", "projections changed", "How many of them are not the reference's."),
    Measure("changed_tensors", "tensors changed", "How many tensors in all are not the reference's."),
    Measure("unmatched_projections", "projections not compared", "Those without a counterpart in the reference."),
    Measure("relative_norm", "relative change", "The size of the change as a part of the size of the reference's tensor."),
    Measure("changed_share", "share changed", "The share of entries that are not the reference's.", "share"),
    Measure("rank", "rank", "The number of independent directions that the change has. Training changes all of them, an edit few."),
    Measure("replay_agreement", "agreement", "The share of moved entries that replaying the change reproduces bit for bit.", "share"),
    Measure("singular_values", "singular values", "How strong the change is in each of its directions, the strongest first."),
    Measure("spectrum", "spectrum", "The strongest directions of the difference, rounding noise included: an edit's stand out."),
    Measure("spike", "spikes", "By how much the first singular values stand out of those of noise."),
    Measure("module", "module", "The part of the layer."),
    Measure("kind", "kind", "What was done to the tensor."),
    Measure("tensor", "tensor", "The tensor that changed."),
    Measure("key_side", "what it answers to", "The input direction of the edit: its largest coordinates."),
    Measure("value_side", "what it adds", "The output direction of the edit: its largest coordinates."),
    _LAYER,
    _TOKENS,
)
SPECTRUM = (
    Chart("words", "tokens", "Tokens that the outstanding direction promotes", value="promotes"),
    Measure("score", "score", "The deviations of the layer that stands out most."),
    Measure("compared", "compared", "How many projections were compared."),
    Measure("groups", "groups", "How many groups of layers were compared among themselves."),
    Measure("ratio", "s1/s2", "How many times the strongest direction of the weights is stronger than the next."),
    Measure("z", "deviations", "How many robust deviations that lies above the other layers."),
    Measure("z_norm", "deviations of the norm", "The same for the size of the weights."),
    Measure("z_alignment", "deviations of the alignment", "The same for how much the rows of the weights point one way."),
    Measure("siblings", "siblings", "How many layers it was compared with, itself included."),
    _LAYER,
    _TOKENS,
)
FORENSICS = (
    Measure("score", "score", "How bad the worst finding would be, from 0 to 1."),
    Measure("tensors", "tensors", "How many tensors were read."),
    Measure("bytes", "bytes", "How much was read.", "bytes"),
)
