"""What the numbers of a comparison are called and mean, and which are drawn."""

from __future__ import annotations

from modelguard.display import Chart, Measure

SHOWS = (
    Chart("map", "tensors", "Where the model changed: relative change of each tensor", "name", "relative_norm"),
    Chart("bars", "spectrum", "Singular values of the change, and the largest of what is left beyond the rank found", marked="rank"),
    Measure("score", "score", "How bad the worst change would be, from 0 (identical) to 1."),
    Measure("verdict", "kind of change", "What was done to the model as a whole."),
    Measure("reason", "in words", "What was done to the model as a whole."),
    Measure("relative_norm", "relative change", "The size of the change as a part of the size of the reference's tensor."),
    Measure("changed", "entries changed", "How many entries are not the reference's."),
    Measure("entries", "entries", "How many entries the tensor has."),
    Measure("fraction", "share changed", "The share of entries that are not the reference's.", "share"),
    Measure("max_abs", "largest change", "The largest change of one entry."),
    Measure("cosine", "cosine", "The cosine between reference and change: near 1 or -1 the tensor was scaled, near 0 something was added."),
    Measure("kurtosis", "kurtosis", "How heavy the tails of the change are: 3 for noise, large where few entries carry it."),
    Measure("rank", "rank", "The number of independent directions that the change has. Training changes all of them, an edit few."),
    Measure("agreement", "agreement", "The share of moved entries that replaying the change reproduces bit for bit.", "share"),
    Measure("agreement_below", "agreement at one rank less", "The same with one direction fewer: low where all are needed.", "share"),
    Measure("within_ulp", "agreement to the last bit", "The share of moved entries that the replay meets up to the last bit.", "share"),
    Measure("spectral_gap", "spectral gap", "How many times the last direction found is larger than the next one."),
    Measure("singular_values", "singular values", "How strong the change is in each of its directions, the strongest first."),
    Measure("spectrum", "singular values and rest", "The same, and last the strongest of what is left beyond the rank found."),
    Measure("kind", "kind", "What was done to the tensor."),
    Measure("kinds", "kinds", "How many tensors were changed in which way."),
    Measure("matched", "matched", "How many tensors have a counterpart in the reference, or how one was found."),
    Measure("identical", "identical", "How many tensors are bit for bit the reference's."),
    Measure("identical_by_digest", "identical by digest", "How many of them lie in files whose digests are equal, and were not read."),
    Measure("ranks", "ranks", "The number of independent directions of each matrix that changed."),
    Measure("modules", "modules", "The parts of the model that the change lies in."),
    Measure("matrices", "matrices", "How many matrices were compared."),
    Measure("matrices_changed", "matrices changed", "How many of them changed."),
    Measure("not_listed", "not listed", "How many more there are than are findings of their own; the summary lists every tensor."),
    Measure("tokens", "tokens", "The tokens whose rows changed."),
)
