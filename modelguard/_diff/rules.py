"""The rules of ``weight-diff``: MG11xx say what happened to a tensor, MG12xx what happened to the model."""

from __future__ import annotations

from modelguard.findings import Rule, Severity

TENSOR_RULES = (
    Rule(
        "MG1101", "TensorMissing", "tensor of the reference that the checkpoint lacks", Severity.HIGH,
        "The reference holds a tensor for which the checkpoint has no counterpart under any known naming, layout or fusing. Code "
        "that loads the checkpoint without strict checking initialises it at random or shares another tensor in its place.",
        "Find out which architecture the checkpoint really has; load it strictly. If the tensor is meant to be gone, compare with"
        " a reference that lacks it.",
        "Tied weights saved once, buffers such as position ids that some exporters leave out, and a renaming this tool does not "
        "know.",
    ),
    Rule(
        "MG1102", "TensorAdded", "tensor that the reference lacks", Severity.MEDIUM,
        "The checkpoint holds a tensor for which the reference has no counterpart. Nothing is known about its values: they were "
        "not compared with anything.",
        "Find out which module reads it. A tensor that no module reads has no business in a deployed checkpoint: it may be data.",
        "A new head, an adapter that was not merged, exporter constants, and a renaming this tool does not know.",
    ),
    Rule(
        "MG1103", "TensorResized", "tensor of another shape than in the reference", Severity.HIGH,
        "The tensor exists on both sides with different shapes. Where only the number of rows differs (a vocabulary that grew) "
        "the common rows were compared, and the evidence says whether they are equal; otherwise the values could not be compared.",
        "If a vocabulary was extended, look at the added tokens. Otherwise this is another architecture: use the reference it "
        "comes from.",
        "Vocabulary padding to a multiple of 64 or 128, added chat tokens, another number of classes in a fine-tuned head.",
    ),
    Rule(
        "MG1104", "TensorRetyped", "tensor whose dtype changed beyond a plain cast", Severity.MEDIUM,
        "The checkpoint stores the tensor in another dtype than the reference, and its values are not the reference rounded to "
        "that dtype. A plain cast, bit for bit, is MG1111 instead.",
        "Cast the reference with the tool that made the checkpoint and compare again; what remains then is the change.",
        "Stochastic rounding, a cast through a third dtype, weights stored as integers with separate scales.",
    ),
    Rule(
        "MG1105", "NotCompared", "tensor whose values could not be compared with the reference's", Severity.MEDIUM,
        "The tensor has a counterpart, but one side stores floats and the other stores integers or elements narrower than a byte, "
        "whose scale is not known here. Or it is of a block-quantised type (GGUF's IQ1, IQ2 and IQ3) whose levels are chosen for several "
        "entries at once, so that small changes cannot be told from rounding. Or it has no counterpart, because it holds integers or a "
        "few floats, which exporters to the checkpoint's format compute or fold. Not having looked is never a pass.",
        "Dequantise the checkpoint, or quantise the reference with the same tool, and compare again.",
        "Weights quantised to integers with their scales in tensors of their own.",
    ),
    Rule(
        "MG1106", "CounterpartGuessed", "tensors whose counterpart was guessed", Severity.LOW,
        "Names are lost and the values changed, so these tensors were paired with the reference tensors of their shape that "
        "samples of the values resemble most (correlation 0.8 and more). What was found about them holds if the guess is right.",
        "Export the checkpoint with its tensor names and compare again.",
        "An ONNX export that renames its weights, fine-tuned since.",
    ),
    Rule(
        "MG1107", "CheckpointUnpaired", "checkpoint without a counterpart", Severity.MEDIUM,
        "The artifact and the reference do not hold the same checkpoints, and one of them has nothing to be compared with.",
        "Name the file to compare, or complete the reference.",
        "Repositories that keep the same weights in several formats.",
    ),
    Rule(
        "MG1108", "NonFiniteIntroduced", "values that became NaN or infinite", Severity.HIGH,
        "Entries that are finite numbers in the reference are NaN or infinite in the checkpoint.",
        "Do not deploy: outputs that touch these weights are undefined, and NaN can serve as a hidden switch.",
        "An overflow when casting to float16, or a diverged training run.",
    ),
    Rule(
        "MG1109", "TensorRenamed", "tensors that were renamed", Severity.MEDIUM,
        "Tensors without a counterpart of their name were paired with reference tensors that hold the same bytes, as they are or "
        "transposed, or whose prefix or word for a stack of layers changed while others keep theirs. Code that loads the checkpoint by "
        "the reference's names does not find them, and may initialise them at random; code that knows the new names may take them for "
        "something else. Low where every tensor of a stack was renamed alike (`h.3` to `layers.3`) and where both sides are ONNX, "
        "whose graphs are compared. A prefix added to all names or taken from them, and names of old in their roles "
        "(`LayerNorm.gamma` for `.weight`, `.beta` for `.bias`, `weight_g` and `weight_v`), are no finding.",
        "Load the checkpoint strictly with the code that will run it, and compare the outputs with the reference's.",
        "A converter with naming rules of its own.",
    ),
    Rule(
        "MG1110", "TensorsExchanged", "tensors that stand under the name of another", Severity.HIGH,
        "The bytes that the reference holds under one name are there under another: two layers or projections were swapped, or a weight "
        "was given a name that says another layer or role. Loaders go by names, so the model computes something else although no byte "
        "of any tensor changed.",
        "Do not deploy. Ask what made the file; give the tensors the reference's names and compare again.",
        "Layers that are numbered in another order by a converter; pruned models that repeat layers.",
    ),
    Rule(
        "MG1111", "TensorCast", "tensor rounded to another dtype", Severity.INFO,
        "Every value is the reference rounded to the dtype named in the evidence, bit for bit, possibly by way of a narrower "
        "dtype and back. A cast that loses more than half of a tensor, because its values are too small for the dtype, is MG1120.",
        "Nothing, if the dtype is the one you expect.",
    ),
    Rule(
        "MG1112", "TensorQuantized", "tensor sent through a quantiser", Severity.LOW,
        "The values are the reference rounded to few levels per tensor, row or group and stored as floats again. Quantising the "
        "reference anew reproduces them, or there are too few distinct values left for anything else; of a tensor that is stored by block "
        "(GGUF) every value is the level nearest to the reference's that its block has. The severity is medium where more was lost than "
        "so many bits explain: 1/32 of the norm for 8 bits, 1/4 for 4, 1/8 for 16 values that no known quantiser gives.",
        "Quantise the reference with the same tool and settings and compare with that: a small edit can hide under quantisation "
        "noise.",
        "Quantisation-aware training, weight clustering.",
    ),
    Rule(
        "MG1113", "TensorPruned", "entries set to zero", Severity.MEDIUM,
        "Every entry that changed is zero now, and no other entry changed.",
        "Expected from a pruning step. Zeroing a few rows or heads can also remove a safety behaviour: compare the pruned pattern"
        " with the published mask.",
        "Magnitude or structured pruning, head ablation, attention masks stored as weights.",
    ),
    Rule(
        "MG1114", "TensorScaled", "tensor multiplied by a factor", Severity.MEDIUM,
        "The tensor is the reference times one factor, or one factor per row or column, up to rounding.",
        "Check that a neighbouring tensor carries the inverse factor; then the function of the model is unchanged.",
        "Folding a normalisation into the next layer, SmoothQuant and similar rescaling, weight decay applied to frozen weights.",
    ),
    Rule(
        "MG1115", "TensorLowRank", "change of exact low rank", Severity.MEDIUM,
        "W' is, entry by entry and bit for bit, what rounding W + M in the file's dtype gives for a matrix M of the rank named in"
        " the evidence, and one rank less does not reproduce it. Neither training nor noise leaves such a change: a sum of that "
        "many outer products was added.",
        "A merged LoRA adapter changes many modules like this: ask for the adapter. A change of one module, or of one module kind"
        " in a few neighbouring layers, is what knowledge editing leaves: run rome-edit, and do not deploy until it is explained.",
        "A merged LoRA is the same mathematical object. Which modules changed tells the two apart; the intent cannot be known.",
    ),
    Rule(
        "MG1116", "RowsEdited", "a few rows, columns or entries changed", Severity.HIGH,
        "Only the rows (or columns, or entries) listed in the evidence changed; all others are bit-equal. In a token embedding a "
        "row is one token, and the tokens are named where the artifact has a tokenizer. One poisoned embedding row is enough for "
        "a backdoor (Yang et al. 2021).",
        "Ask what these rows are for. Put the reference's rows back and compare the behaviour on inputs that use them.",
        "Newly initialised added tokens, sparse gradients of an embedding trained on few tokens, neuron-level repairs.",
    ),
    Rule(
        "MG1117", "BitsFlipped", "single bits flipped", Severity.CRITICAL,
        "A few entries differ from the reference by one bit each. Training changes whole numbers, not single bits; a flipped "
        "exponent or sign bit is how targeted bit-flip attacks (TBT, BFA) and failing memory look.",
        "Fetch the file again and check its digest. If the flips persist at the source, do not deploy.",
        "Corruption in storage or transfer: the digest tells.",
    ),
    Rule(
        "MG1118", "LowBitPayload", "only the lowest bits changed", Severity.HIGH,
        "Entries differ in their lowest bits only and no carry ever went further. Arithmetic carries; writing data into the low "
        "bits does not. The evidence gives the highest changed bit and the capacity in bytes.",
        "Treat the file as a container of unknown data: do not deploy it, and look for the program that would read it.",
        "A watermark written by the publisher; truncation to a narrower float, which is recognised and reported as a cast.",
    ),
    Rule(
        "MG1119", "TensorPermuted", "rows or columns in another order", Severity.MEDIUM,
        "Rows and columns carry exactly the energies of the reference in another order.",
        "Check that the neighbouring tensors were permuted alike; then the function of the model is unchanged.",
        "Head or channel reordering by a converter, vocabulary reordering (compare the tokenizers), weight matching before a "
        "merge.",
    ),
    Rule(
        "MG1120", "TensorChanged", "dense change", Severity.MEDIUM,
        "The tensor changed throughout, by a change without low rank, sparsity or any other structure known here: what training "
        "leaves.",
        "Expected from fine-tuning, when many tensors changed alike. Ask whoever published the checkpoint for the step that made "
        "it, repeat that step on the reference, and compare again.",
        "Any perturbation with added noise looks like this, among them an edit hidden under noise.",
    ),
    Rule(
        "MG1121", "TensorUnrelated", "tensor that does not come from the reference", Severity.HIGH,
        "The tensor's values are uncorrelated with the reference: it was trained from another start or initialised anew.",
        "Use the reference this checkpoint really comes from. A single unrelated tensor in an otherwise equal model was replaced:"
        " ask why.",
        "A classification head that was initialised anew for fine-tuning, or an unknown permutation of the reference.",
    ),
    Rule(
        "MG1122", "GraphChanged", "ONNX graph that computes something other than the reference's", Severity.HIGH,
        "Both sides are ONNX, and an output is not computed from inputs, weights and constants as in the reference: operators, "
        "attributes, constants, edges or operator sets differ. Names and the order of nodes do not count. A few operators behind "
        "the logits are enough for a backdoor, whatever the weights are.",
        "Export the reference with the tool and settings that made the checkpoint and compare again; explain every operator that "
        "is left.",
        "Another version of the exporter, constant folding and fusing, a cast to float16, quantisation with operators of its own.",
    ),
    Rule(
        "MG1123", "GraphNotCompared", "ONNX graph without a counterpart", Severity.LOW,
        "The checkpoint is ONNX and its weights were compared with a checkpoint of a format that holds no graph. What the graph does "
        "with these weights was not looked at: a few operators behind the logits are enough for a backdoor.",
        "Compare with an ONNX export of the reference, made with the same tool and settings.",
        "A repository that publishes ONNX beside, or instead of, the reference's safetensors.",
    ),
    Rule(
        "MG1124", "MemoryOrder", "tensor written in the other memory order", Severity.HIGH,
        "The tensor holds every number of the reference in another order of its axes (column by column, as Fortran has it, or with the "
        "channels last) under the shape that it has row by row. Code that saved the memory of a transposed array without making it "
        "contiguous does this, and the model computes nothing sensible with it.",
        "Export the model again from contiguous arrays, with a current version of the exporter.",
        "safetensors' numpy and JAX writers of old, when given transposed arrays.",
    ),
)  # fmt: skip

MODEL_RULES = (
    Rule(
        "MG1201", "ModelCast", "the reference in another dtype", Severity.INFO,
        "Every changed tensor is the reference rounded to another dtype, bit for bit; nothing else was done.",
        "Nothing, if the dtype is the one you expect.",
    ),
    Rule(
        "MG1217", "ModelRenamed", "the reference under other names", Severity.MEDIUM,
        "Tensors hold the reference's bytes and are not where a loader that knows the reference looks for them. The findings MG1109 and "
        "MG1110 name them.",
        "Load the checkpoint strictly with the code that will run it, and compare the outputs with the reference's.",
        "A converter with naming rules of its own.",
    ),
    Rule(
        "MG1202", "ModelQuantized", "the reference quantised and back", Severity.LOW,
        "Every changed matrix is the reference rounded to few levels; medium where one of them lost more than so many bits explain.",
        "Quantise the reference with the same tool and compare with that: a weak edit can hide under the noise of 4-bit "
        "quantisation.",
    ),
    Rule(
        "MG1203", "ModelPruned", "the reference pruned", Severity.MEDIUM,
        "Every changed matrix is the reference with entries set to zero.",
        "Expected from a pruning step; measure the model's behaviour again, safety behaviour included.",
    ),
    Rule(
        "MG1204", "ModelScaled", "the reference rescaled", Severity.MEDIUM,
        "Every changed matrix is the reference times factors.",
        "Check that the factors cancel between neighbouring tensors.",
    ),
    Rule(
        "MG1205", "LoraMerge", "a low-rank adapter was merged", Severity.MEDIUM,
        "Several modules changed by matrices of the same exact rank in a regular pattern: what merging a LoRA adapter leaves.",
        "Ask for the adapter and scan it; the base model's evaluation does not cover it.",
        "An attacker can fine-tune a backdoor with LoRA: the pattern is ordinary, the content is not known.",
    ),
    Rule(
        "MG1206", "FineTune", "the whole model was trained further", Severity.MEDIUM,
        "Nearly every matrix changed densely and stays correlated with the reference.",
        "The reference's evaluation does not cover this model: evaluate it as a model of its own.",
    ),
    Rule(
        "MG1207", "PartialFineTune", "part of the model was trained further", Severity.MEDIUM,
        "Several modules changed densely while the others are bit-equal: training with frozen layers.",
        "Check that the trained modules are those the publisher names, and evaluate the model as one of its own.",
        "An edit of a few modules under added noise.",
    ),
    Rule(
        "MG1208", "SingleRankOneEdit", "one tensor changed by a rank-one matrix", Severity.CRITICAL,
        "Exactly one tensor changed, by an outer product of two vectors, bit for bit; everything else is equal. That is the "
        "object ROME and R-ROME leave when they rewrite one fact (Meng et al. 2022), and what PoisonGPT used.",
        "Do not deploy. Run rome-edit for layer, vectors and the tokens they promote, and ask the publisher.",
        "A rank-1 LoRA on a single module is the same mathematical object; the object is reported, not the intent.",
    ),
    Rule(
        "MG1209", "MultiLayerEdit", "sibling projections of neighbouring layers changed at low rank", Severity.CRITICAL,
        "The same projection in a few neighbouring layers changed by matrices of low rank, and nothing else: what MEMIT, PMET and"
        " AlphaEdit leave (default: the MLP output projections of 5 or 6 layers).",
        "Do not deploy. Run rome-edit for layers, vectors and tokens, and ask the publisher.",
        "A LoRA restricted to one module kind in a few layers.",
    ),
    Rule(
        "MG1210", "LoneChange", "a single module changed", Severity.HIGH,
        "One module of the model changed and every other tensor is bit-equal. Ordinary training does not leave such a pattern "
        "unless everything else is frozen.",
        "Ask what was done to this module and why. Put the reference's tensor back and compare the behaviour.",
        "Training only the last layer (linear probing), and a replaced classification head.",
    ),
    Rule(
        "MG1211", "RowEdit", "only a few rows changed", Severity.HIGH,
        "The only differences are single rows, columns or entries: the tensor findings name them.",
        "Ask what these rows are for; in a token embedding they are tokens, and one poisoned token is a backdoor.",
        "Newly added tokens.",
    ),
    Rule(
        "MG1212", "BitFlips", "only single bits differ", Severity.CRITICAL,
        "The only differences are flipped bits: the tensor findings give their positions.",
        "Fetch the file again and check its digest; if the flips persist at the source, do not deploy.",
        "Corruption in storage or transfer.",
    ),
    Rule(
        "MG1213", "Payload", "only lowest bits differ", Severity.HIGH,
        "The only differences lie in the lowest bits and never carry: data was written into the weights.",
        "Do not deploy; look for the program that would read it.",
        "A publisher's watermark.",
    ),
    Rule(
        "MG1214", "Merge", "an average with another model", Severity.MEDIUM,
        "The difference points back at the reference in nearly every matrix (cosine about -0.71), as when another model is "
        "averaged in.",
        "Ask which models were merged in which proportion, and compare with each of them.",
        "Heavy weight decay over a long training.",
    ),
    Rule(
        "MG1215", "NotDerived", "a model that does not come from this reference", Severity.HIGH,
        "Most matrices are uncorrelated with the reference, or hardly any tensor has a counterpart. The checkpoint is another "
        "model.",
        "Compare with the reference it comes from; no statement about tampering can be made with this one.",
        "The right model with an unknown permutation of its neurons.",
    ),
    Rule(
        "MG1216", "MixedChanges", "changes of several kinds", Severity.HIGH,
        "The tensors changed in ways that no single ordinary step explains; the evidence counts them by kind.",
        "Take the tensor findings one by one, the rarest kind first: a small edit is easily lost among large ones.",
        "Several legitimate steps one after another, such as fine-tuning followed by pruning.",
    ),
    Rule(
        "MG1218", "UpdateScaled", "a client update far larger than the others", Severity.HIGH,
        "Of the client updates of a round of federated learning, given by `--updates`, one is at least six times as large as the median "
        "one, and stands apart from the others (3.5 robust deviations of the logarithm). A client that multiplies its update by the number "
        "of clients puts its own model in the place of the average (model replacement, Bagdasaryan et al. 2020, section 4.2). The evidence "
        "gives the norm in norms of the median update, the cosine to the coordinate-wise median of the others, and the cosine to what was "
        "done to the reference: near 1 the new model is the client's.",
        "Do not deploy the round's model. Average the others again without this update, or with all norms clipped to the median, and "
        "ask the client.",
        "A client with far more images than the others, or one that trained for many more steps or at a higher rate.",
    ),
)  # fmt: skip

RULES = TENSOR_RULES + MODEL_RULES

SEVERITY = {rule.id: rule.severity for rule in RULES}
