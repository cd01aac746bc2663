"""What is known of a model beside its input and output, as the report has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the torch graph was from onnxruntime: ``max_rel`` and ``tolerance`` are shares of the largest output magnitude;
    ``random`` and ``samples`` count the inputs compared. ``spread`` is by how much, as such a share, onnxruntime differs from itself
    where the tolerance was raised to that."""

    ok: bool
    max_abs: float
    max_rel: float
    tolerance: float
    random: int
    samples: int
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Precision:
    """How far a model that was moved is from itself on the CPU in float32: of the logits as a share of the largest, of the gradient with
    respect to the input as a cosine, None where there is none."""

    computed_in: str
    max_rel: float
    tolerance: float
    gradient_cosine: float | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model; None where it does not apply.

    ``factory`` says who built it, from which ``checkpoint``; ``parameters`` counts the numbers that were learnt, where it is not those
    of the torch module. ``forward_only`` is the reason why nothing may be differentiated. ``batch`` is the only number of inputs the
    graph takes at once. ``assumed`` is what labelled samples decided, and ``alternatives`` what came next. ``not_run`` names the
    artifact's other checkpoints; ``same_weights`` says how those that hold the same tensors compare. ``agreement`` is that of
    :func:`modelguard.agreement`. An ONNX ``graph`` has inputs and outputs, ``operators`` by count, of them ``unsupported`` ones, and
    ``opsets`` by domain. ``cut`` says how many of the samples are longer than the model takes, and were cut.
    """

    factory: str | None = None
    checkpoint: str | None = None
    parameters: int | None = None
    graph: Mapping[str, Any] | None = None
    operators: Mapping[str, int] | None = None
    unsupported: tuple[str, ...] | None = None
    opsets: Mapping[str, int] | None = None
    batch: int | None = None
    parity: Parity | None = None
    provider: str | None = None
    assumed: str | None = None
    alternatives: tuple[str, ...] | None = None
    precision: Precision | None = None
    not_run: tuple[str, ...] | None = None
    same_weights: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    forward_only: str | None = None
    cut: Mapping[str, int] | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-safe: what applies, by name. A graph always says whether it was compared."""
        found: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Parity | Precision):
                found[item.name] = asdict(value)
            elif isinstance(value, tuple):
                found[item.name] = list(value)
            elif value is not None or (item.name == "parity" and self.graph is not None):
                found[item.name] = value
        return found
