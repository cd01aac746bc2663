"""``mntd``: meta neural analysis, with a meta-classifier that was made for the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_triggers.evidence import require_classifier
from modelguard_triggers.facts import rounded

from modelguard import Capability, Confidence, Detector, Finding, ScanContext, Skip, Target, UsageError, option, require_understanding
from modelguard_meta._architecture import PARTS, fingerprint
from modelguard_meta._calibration import p_value
from modelguard_meta._file import MetaFile, read
from modelguard_meta._measures import SHOWS
from modelguard_meta._rules import LIKE_TROJANED

if TYPE_CHECKING:
    from modelguard import RunnableModel

SAME_TASK = 0.5
"""Part of the median benign shadow's agreement with the class means below which a model is taken for one of another task."""
TELLING = 3
"""Times chance that the median benign shadow's agreement must be for it to tell anything."""


@dataclass(frozen=True)
class Mntd(Detector):
    """Puts the learnt queries of a meta-classifier to the model and says how its answers rank among those of benign shadow models.

    Xu, Wang, Li, Borisov, Gunter and Li, "Detecting AI Trojans Using Meta Neural Analysis", IEEE S&P 2021. The model runs in evaluation
    mode (the authors' released code leaves dropout and batch norm in training mode). The score is the meta-classifier's, less the median of
    held-out benign shadows.
    """

    id = "mntd"
    requires = frozenset({Capability.FORWARD})
    rules = (LIKE_TROJANED,)
    shows = SHOWS
    on_request = True
    keeps_with_options = False  # the meta-classifier is a file

    meta: str = option("", "the meta-classifier: a file that `modelguard meta train` made for this architecture and task")
    sha256: str = option("", "sha256 that the file must have")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        if not self.meta:
            raise Skip("no meta-classifier was given: make one with `modelguard meta train` and name it in the option `meta`")
        try:
            meta = read((context.folder or Path()) / self.meta, self.sha256)
        except UsageError as error:
            raise Skip(str(error)) from error
        model = target.model
        require_classifier(model, 2)
        _require_architecture(target, meta)
        if target.samples is not None:
            require_understanding(model, target.samples)
        context.check_deadline()
        agreement = _require_task(model, meta)
        context.check_deadline()
        value = _score(model, meta)
        context.progress(1, 1)
        yield from self._judged(value, agreement, meta, context)

    def _judged(self, value: float, agreement: float, meta: MetaFile, context: ScanContext) -> Iterator[Finding]:
        benign, facts = meta.benign, meta.facts
        median, count = float(np.median(benign)), len(benign)
        p = p_value(value, benign)
        numbers: dict[str, Any] = {
            "p_value": rounded(p),
            "smallest_p": rounded(1 / (count + 1)),
            "threshold": rounded(facts.threshold - median),
            "auroc": rounded(facts.auroc),
            "benign_shadows": count,
            "agreement": rounded(agreement),
            "meta_sha256": meta.sha256,
            "samples_sha256": facts.samples["sha256"],
        }
        context.summary(score=rounded(value - median), **numbers)
        if value > facts.threshold:
            above = int((benign < value).sum())
            yield Finding(
                LIKE_TROJANED.id,
                f"the model answers the meta-classifier's queries as trojaned models do: it scores above {above} of {count} held-out "
                f"benign shadows (p = {p:.3g}; with {count} shadows no p is below {1 / (count + 1):.3g})",
                confidence=Confidence.MEDIUM,
                evidence={"score": rounded(value - median), **numbers},
                key="mntd",
            )


def _require_architecture(target: Target, meta: MetaFile) -> None:
    """Raise :class:`~modelguard.Skip` unless the model has the architecture that the meta-classifier was made for."""
    if target.model.input.kind != "image":
        raise Skip(f"the model takes {target.model.input.kind} inputs; the meta-classifier was made for {meta.facts.described}")
    found = fingerprint(target)
    if other := [name for name in PARTS if found[name] != meta.facts.architecture[name]]:
        raise Skip(
            f"the model is of another architecture than the meta-classifier was made for: its {', '.join(other)} differ "
            f"(made for {meta.facts.described}); make one for it with `modelguard meta train`"
        )


def _require_task(model: RunnableModel, meta: MetaFile) -> float:
    """The share of the class means that the model calls by their class. Raises :class:`~modelguard.Skip` where it is so low that the model
    is plainly of another task."""
    probes, usual = meta.tensors["probes"], meta.facts.quality["agreement"]
    agreement = float((model.predict(probes).argmax(1) == np.arange(len(probes))).mean())
    if usual >= TELLING / len(probes) and agreement < SAME_TASK * usual:
        raise Skip(
            f"the model calls {agreement:.0%} of the mean images of the classes by their class, benign shadows {usual:.0%}: it is of "
            "another task than the meta-classifier was made for"
        )
    return agreement


def _score(model: RunnableModel, meta: MetaFile) -> float:
    """What the meta-classifier makes of the model."""
    import torch

    from modelguard_meta._meta import Meta

    queries = meta.tensors["queries"]
    logits = model.predict(queries.reshape(-1, *queries.shape[2:]))
    if not np.isfinite(logits).all():
        raise Skip("the model returns values that are not finite for the queries")
    network = Meta(**{name: torch.from_numpy(meta.tensors[name]) for name in ("queries", "hidden", "hidden_bias", "out", "out_bias")})
    return float(network.score(torch.from_numpy(logits)[None])[0])
