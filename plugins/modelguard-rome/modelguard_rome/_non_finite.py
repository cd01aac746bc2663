"""Values that are NaN or infinite: weights that compute nothing, infinities that are meant, and the rest. One finding for each kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modelguard import Checkpoint, Confidence, Finding, Location, ModelguardError, Severity, TensorInfo, numpy_dtype
from modelguard.onnx_graph import Graph, Node

LISTED = 8
"""Elements, and tensors, that evidence lists."""
DEAD = 0.5
"""Share of values that are not finite from which a tensor computes nothing."""
_MASK = re.compile(r"mask|bias|pad|rel_pos|relative_position", re.IGNORECASE)
_THRESHOLDS = frozenset({"nodes_values", "nodes_splits", "nodes_values_as_tensor"})
"""Attributes of ONNX's tree ensembles that values are compared with: LightGBM writes an infinity where every value passes."""

_ENDS = frozenset(
    {
        "ArgMax", "ArgMin", "Attention", "Clip", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
        "LogSoftmax", "Max", "MaxPool", "Min", "MultiHeadAttention", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "Softmax", "TopK",
        "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "Where",
    }
)  # fmt: skip
"""Operators for which an infinity is a limit, a choice or a mask, and nothing that spreads."""
_KEEPS = frozenset(
    {
        "Add", "Cast", "CastLike", "Compress", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "Neg", "Pad",
        "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Trilu",
        "Unsqueeze",
    }
)  # fmt: skip
"""Operators that hand it on."""
_CHOICES = frozenset({"Equal", "IsNaN", "Pad", "Where"})
"""Operators that put a NaN where something is missing, or look for it there."""
_STEPS = 4096
"""Values that are followed from one tensor."""


@dataclass(frozen=True)
class NonFinite:
    """A tensor with values that are not finite: how many, where the first are, and ``kind``: ``dead``, ``meant`` or ``some``."""

    tensor: TensorInfo
    count: int
    elements: list[int]
    kind: str


class Uses:
    """What an ONNX graph does with its weights; knows nothing where there is no graph."""

    def __init__(self, checkpoint: Checkpoint, check: Callable[[], None]) -> None:
        self._checkpoint, self._check = checkpoint, check

    @cached_property
    def _readers(self) -> tuple[dict[str, list[str]], dict[str, list[Node]]]:
        """The values each stored tensor is known as, and the nodes that read each value, over all graphs together."""
        values: dict[str, list[str]] = {}
        nodes: dict[str, list[Node]] = {}
        try:
            model = self._checkpoint.graph(self._check)
        except ModelguardError:
            model = None
        left: list[Graph] = [] if model is None else [model.graph]
        while left:
            graph = left.pop()
            for tensor in graph.initializers:
                if tensor.stored is not None:
                    values.setdefault(tensor.stored, []).append(tensor.name)
            for node in graph.nodes:
                for name in node.inputs:
                    nodes.setdefault(name, []).append(node)
                for attribute in node.attributes:
                    if attribute.t is not None and attribute.t.stored is not None:
                        values.setdefault(attribute.t.stored, []).extend(node.outputs)
                left.extend(node.subgraphs)
        return values, nodes

    def meant(self, name: str) -> bool | None:
        """Whether the graph uses the tensor's infinities as limits and masks only; None where it does not say."""
        values, nodes = self._readers
        left, seen = list(values.get(name, ())), set[str]()
        if not any(nodes.get(value) for value in left):
            return None
        while left:
            value = left.pop()
            if value in seen:
                continue
            seen.add(value)
            if len(seen) > _STEPS:
                return False
            readers = nodes.get(value, [])
            if not readers:  # an output of the graph
                return False
            for node in readers:
                if node.op in _ENDS:
                    continue
                if node.op not in _KEEPS:
                    return False
                left.extend(node.outputs)
        return True

    def marks(self, name: str) -> bool:
        """Whether the graph reads the tensor, and only to put it in a place or to look for it."""
        values, nodes = self._readers
        readers = [node for value in values.get(name, ()) for node in nodes.get(value, ())]
        return bool(readers) and all(node.op in _CHOICES for node in readers)


def look(tensor: TensorInfo, words: Any, count: int, elements: list[int], uses: Uses) -> NonFinite | None:
    """What the ``count`` non-finite values of a tensor are; ``words`` are its values as integers. None for an ordinary mask."""
    values = words.view(numpy_dtype(tensor.dtype))
    with np.errstate(all="ignore"):
        negative = int(np.count_nonzero(values == np.asarray(-np.inf, values.dtype)))
        positive = int(np.count_nonzero(values == np.asarray(np.inf, values.dtype)))
    nan = count - negative - positive
    if not nan and negative == count and len(np.unique(words)) == 2:
        return None
    if not nan and _meant(tensor, values, uses, positive, negative):
        return NonFinite(tensor, count, elements, "meant")
    if nan == tensor.size == 1 and uses.marks(tensor.name):
        return NonFinite(tensor, count, elements, "meant")
    return NonFinite(tensor, count, elements, "dead" if count >= DEAD * tensor.size else "some")


def _meant(tensor: TensorInfo, values: Any, uses: Uses, positive: int, negative: int) -> bool:
    if tensor.name.rpartition("/")[2] in _THRESHOLDS:
        return True
    if (said := uses.meant(tensor.name)) is not None:
        return said
    if tensor.size == 1:
        return True
    if not _MASK.search(tensor.name) or (positive and negative):
        return False
    if len(tensor.shape) < 2:
        return True
    # A row of padding is all infinite, and no other row is anywhere.
    broken = np.isinf(values.reshape(-1, tensor.shape[-1]))
    return bool(np.all(broken.all(axis=1) | ~broken.any(axis=1))) or bool(np.all(broken.all(axis=0) | ~broken.any(axis=0)))


_KINDS = {
    "dead": (Severity.HIGH, "no longer weights: most or all of their values are NaN or infinite"),
    "some": (None, "values that are NaN or infinite"),
    "meant": (Severity.INFO, "infinities and NaN that are limits, thresholds, masks or marks of what is missing"),
}


def findings(broken: Sequence[NonFinite], at: Callable[[TensorInfo, int, int], Location]) -> Iterator[Finding]:
    """One finding for each kind; the first tensor's place is the finding's."""
    for kind, (severity, phrase) in _KINDS.items():
        found = [item for item in broken if item.kind == kind]
        if not found:
            continue
        first, count = found[0], sum(item.count for item in found)
        if len(found) == 1:
            what = "" if kind != "meant" else ", and are used as limits, thresholds, masks or marks of what is missing"
            message = f"{first.tensor.name}: {count} of {first.tensor.size} values are NaN or infinite{what}"
            evidence: dict[str, Any] = {"count": count, "elements": first.elements}
        else:
            names = [item.tensor.name for item in found]
            listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            message = f"{len(found)} tensors are {phrase}: {listed}" if kind == "dead" else f"{len(found)} tensors hold {phrase}: {listed}"
            evidence = {"count": count, "tensors": names[:LISTED], "elements": first.elements}
        place = at(first.tensor, first.elements[0], first.elements[0] + 1)
        yield Finding("MG1301", message, Confidence.HIGH, severity, place, evidence, key=kind if kind != "some" else "")
