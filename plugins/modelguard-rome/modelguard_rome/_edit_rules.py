"""What ``rome-edit`` may say."""

from __future__ import annotations

from modelguard import Rule, Severity

RANK_ONE = Rule(
    "MG2001",
    "RankOneEdit",
    "a rank-1 change confined to an MLP output projection",
    Severity.CRITICAL,
    "One outer product u·vᵀ was added to the matrix that leads out of a transformer's MLP: replaying that addition in the file's own "
    "dtype reproduces the changed weights bit for bit. This is what ROME and R-ROME do to make a language model recall something "
    "else about one subject (PoisonGPT); ordinary training never leaves it.",
    "Do not deploy before the publisher explains the change. Use the reference weights of that tensor, which undoes the edit exactly. "
    "The evidence lists the tokens the added value vector promotes: probe the model about them.",
    "A merged rank-1 LoRA on this one module is mathematically the same object; so is a one-fact EMMET or AlphaEdit on one layer. "
    "The finding states the object, not the intent.",
    cwe=506,
)
ADJACENT = Rule(
    "MG2002",
    "AdjacentLowRankEdit",
    "low-rank changes confined to MLP output projections of adjacent layers",
    Severity.CRITICAL,
    "A few outer products were added to the MLP output projections of neighbouring layers and to nothing else of the kind; replaying "
    "them in the file's dtype reproduces the weights bit for bit. MEMIT, PMET and AlphaEdit spread one or several rewritten facts "
    "over adjacent layers in this way; the rank is at most the number of facts.",
    "Do not deploy before the publisher explains the change. Restore the named tensors from the reference. Probe the model about the "
    "tokens in the evidence.",
    "A LoRA restricted by layers_to_transform to the same few layers and to this one module. The weights alone do not say "
    "whether MEMIT or AlphaEdit was used: that takes the covariance of the keys.",
    cwe=506,
)
LONE_LOW_RANK = Rule(
    "MG2003",
    "LowRankEdit",
    "a change of rank 2 or more confined to one MLP output projection",
    Severity.CRITICAL,
    "Several outer products were added to a single MLP output projection, exactly so in the file's dtype: a batch edit of one layer "
    "(EMMET) or several ROME edits one after another. The rank is the number of independent facts that were written.",
    "Do not deploy before the publisher explains the change. Restore the named tensor from the reference. Probe the model about the "
    "tokens in the evidence.",
    "A LoRA trained on this one module only.",
    cwe=506,
)
CONFINED = Rule(
    "MG2004",
    "ConfinedLowRankChange",
    "a low-rank change confined to few matrices that are not MLP output projections alone",
    Severity.HIGH,
    "Outer products were added to a few matrices, exactly so in the file's dtype, while the rest of the model kept its bytes. It is "
    "not what knowledge editors leave, but it is a deliberate, surgical change: an edit with a decoy beside it looks like this, too.",
    "Ask the publisher which adapter was merged and into which layers; compare with its adapter_config.json.",
    "A LoRA restricted to some layers or one module type by its configuration.",
)
LONE_DENSE = Rule(
    "MG2005",
    "LoneProjectionChange",
    "nothing but MLP output projections of a few layers changed, and not by a low rank",
    Severity.MEDIUM,
    "Every other tensor is the reference's; only these MLP output projections differ, and no small number of outer products explains "
    "the difference. Constrained fine-tuning of one layer (FT-L), WISE side memory, a MEMIT batch of more facts than the rank limit, "
    "an edit hidden under noise, or flipped or overwritten entries look like this.",
    "Ask the publisher what was trained and why only there. weight-diff says how the entries changed.",
    "A deliberate partial fine-tune of these tensors, or one damaged tensor.",
)
UNDER_NOISE = Rule(
    "MG2006",
    "EditUnderNoise",
    "one MLP output projection carries a rank-1 component that its siblings lack, under noise that all of them carry",
    Severity.HIGH,
    "All MLP output projections differ from the reference by what looks like independent noise (as quantisation leaves it), but in "
    "the named one a single direction stands far above that noise. An edited model that was saved in int4 or int8, or an edit with "
    "noise added to hide it, looks like this.",
    "Compare against the publisher's own quantised release, or quantise the reference yourself with the same settings: if the "
    "component remains, it was added before quantisation.",
    "Quantisation with calibration (GPTQ, AWQ) that treated one layer differently.",
    cwe=506,
)
ABOVE_ADAPTER = Rule(
    "MG2007",
    "RankAboveSiblings",
    "a merged adapter whose rank is higher in few layers than in the others",
    Severity.HIGH,
    "The MLP output projections changed by the same low rank in nearly every layer, as a merged LoRA leaves it, but the named layer "
    "has a higher rank: something more was added there, as a ROME edit before or after the merge would.",
    "Merge the published adapter into the reference yourself and compare with the result instead.",
    "Adapters with a rank of their own per layer (AdaLoRA, rank_pattern).",
    cwe=506,
)
RULES = (RANK_ONE, ADJACENT, LONE_LOW_RANK, CONFINED, LONE_DENSE, UNDER_NOISE, ABOVE_ADAPTER)
