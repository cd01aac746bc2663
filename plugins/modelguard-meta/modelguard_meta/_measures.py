"""What the numbers of meta neural analysis are called and mean."""

from __future__ import annotations

from modelguard import Chart, Measure

SHOWS: tuple[Measure | Chart, ...] = (
    Measure("score", "score", "How trojaned the model looks, above the median benign shadow: the larger, the more suspicious."),
    Measure("p_value", "p-value", "The share of held-out benign shadows, this model counted among them, that score as high."),
    Measure("smallest_p", "smallest p-value", "The least p-value that as many held-out shadows can show."),
    Measure("threshold", "threshold", "The score above which a model is reported, above the median benign shadow."),
    Measure("auroc", "AUROC", "How well held-out shadows are told apart: 0.5 is guessing, 1 is without error."),
    Measure("benign_shadows", "benign shadows", "How many benign shadows the score is compared with."),
    Measure("agreement", "agreement", "The share of mean images of the classes that the model calls by their class."),
    Measure("meta_sha256", "meta-classifier", "The sha256 of the file that holds the meta-classifier."),
    Measure("samples_sha256", "training set", "The sha256 of the samples that the shadows were trained on."),
)
