"""``modelguard model``: a detector that finds nothing and says how the model runs, so that it runs where every detector does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from modelguard.detector import Capability, Detector, ScanContext, Target
from modelguard.findings import Finding, Rule


@dataclass(frozen=True)
class DescribeModel(Detector):
    """Builds the runnable model and puts :meth:`~modelguard.model.RunnableModel.describe` and its layers into the summary."""

    id: ClassVar[str] = "describe-model"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FORWARD})
    rules: ClassVar[tuple[Rule, ...]] = ()

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        model = target.model
        layers = [
            {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "unit_axis": layer.unit_axis} for layer in model.layers
        ]
        context.summary(score=0.0, **{**model.describe(), "layers": layers})
        yield from ()
