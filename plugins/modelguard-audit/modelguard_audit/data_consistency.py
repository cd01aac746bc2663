"""``data-consistency``: equal samples, and what labels they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from modelguard_triggers.facts import rounded

from modelguard import Attachment, Capability, Confidence, Detector, Finding, Measure, ScanContext, Target, exhibit, option
from modelguard_audit._dataset import Floats, Integers, required_labels
from modelguard_audit._findings import COUNT, INDICES, SHOWN
from modelguard_audit._rules import CONTRADICTION, DUPLICATES

if TYPE_CHECKING:
    from modelguard import Samples

BLOCK = 512
MOST_VALUES = 1024
"""Numbers of a sample that are compared; of more, means of neighbours."""


@dataclass(frozen=True)
class DataConsistency(Detector):
    """Equal and nearly equal samples. Of numbers, those whose distance is at most ``near`` times the median distance of samples; of texts,
    those that are equal but for case and space. No model is needed."""

    id = "data-consistency"
    requires = frozenset({Capability.SAMPLES})
    on_request = True
    rules = (CONTRADICTION, DUPLICATES)
    shows = (
        Measure("score", "score", "How many samples have an equal one with another label."),
        INDICES,
        COUNT,
        Measure("labels", "labels", "The labels that equal samples have."),
        Measure("groups", "groups", "Sets of samples that are equal."),
    )

    near: float = option(0.02, "samples nearer than this share of the median distance are the same", ge=0, le=1)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        labels = required_labels(target)
        samples = target.samples
        assert samples is not None
        context.check_deadline()
        is_text = samples.inputs.dtype.kind in "OU"
        group = _equal_texts(samples) if is_text else near_groups(_numbers(samples), self.near, context)
        _, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
        contradicting: list[tuple[Integers, Integers]] = []
        repeated: list[Integers] = []
        for number in np.flatnonzero(sizes > 1):
            members = np.flatnonzero(inverse == number)
            given = np.unique(labels[members])
            if len(given) > 1:
                contradicting.append((members, given))
            else:
                repeated.append(members)
        context.summary(
            score=float(sum(len(members) for members, _ in contradicting)), groups=len(contradicting) + len(repeated), samples=len(labels)
        )
        for members, given in contradicting:
            yield Finding(
                "MG4005",
                f"{len(members)} equal samples have the labels {', '.join(map(str, given))} (samples {_few(members)})",
                confidence=Confidence.HIGH,
                evidence={"indices": members.tolist(), "count": len(members), "labels": given.tolist()},
                attachments=_exhibits(samples, members),
                key=f"sample {members[0]}",
            )
        if repeated:
            extra = np.sort(np.concatenate([members[1:] for members in repeated]))
            yield Finding(
                "MG4006",
                f"{len(extra)} samples are copies of others with the same label, in {len(repeated)} groups",
                confidence=Confidence.HIGH,
                evidence={
                    "indices": extra.tolist(),
                    "count": len(extra),
                    "groups": len(repeated),
                    "share": rounded(len(extra) / len(labels)),
                },
                attachments=_exhibits(samples, max(repeated, key=len)[:1]),
                key="duplicates",
            )


def near_groups(values: Floats, near: float, context: ScanContext) -> Integers:
    """(N,) the number of the group each of ``values`` (N, F) is in: they are joined by pairs nearer than ``near`` of the median."""
    squares = (values**2).sum(1)
    rng = context.rng("pairs")
    one, other = rng.integers(0, len(values), (2, 2000))
    apart = np.sqrt(((values[one] - values[other]) ** 2).sum(1))
    limit = near * float(np.median(apart[one != other])) if (one != other).any() else 0.0
    parent = np.arange(len(values))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = int(parent[place])
        return place

    for begin in range(0, len(values), BLOCK):
        context.check_deadline()
        context.progress(begin, len(values), "pairs")
        block = values[begin : begin + BLOCK]
        distances = squares[begin : begin + BLOCK, None] + squares - 2 * block @ values.T  # (B, N) squared, up to rounding
        rough = limit**2 + 1e-9 * (squares[begin : begin + BLOCK, None] + squares)
        for row, column in zip(*np.nonzero(distances <= rough), strict=True):
            a, b = begin + int(row), int(column)
            if b > a and float(((values[a] - values[b]) ** 2).sum()) <= limit**2:
                parent[root(b)] = root(a)
    return np.array([root(place) for place in range(len(values))], np.int64)


def _numbers(samples: Samples) -> Floats:
    flat = samples.inputs.reshape(len(samples.inputs), -1).astype(np.float64)
    if flat.shape[1] <= MOST_VALUES:
        return flat
    starts = np.linspace(0, flat.shape[1], MOST_VALUES, endpoint=False).astype(int)
    lengths = np.diff(np.append(starts, flat.shape[1]))
    means: Floats = np.add.reduceat(flat, starts, axis=1) / lengths
    return means


def _equal_texts(samples: Samples) -> Integers:
    known: dict[str, int] = {}
    texts = (" ".join(str(text).casefold().split()) for text in samples.inputs)
    return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)


def _exhibits(samples: Samples, members: Integers) -> tuple[Attachment, ...]:
    """Pictures of the first members, where the samples are images."""
    if samples.inputs.ndim not in (3, 4) or samples.inputs.dtype.kind not in "fiu":
        return ()
    shown = []
    for index in members[:SHOWN].tolist():
        image = np.asarray(samples.inputs[index], np.float64)
        if image.ndim == 2:
            image = image[None]
        elif image.shape[0] not in (1, 3) and image.shape[-1] in (1, 3):
            image = image.transpose(2, 0, 1)
        low, high = float(image.min()), float(image.max())
        shown.append(exhibit(f"sample {index}", image, low, high if high > low else low + 1))
    return tuple(shown)


def _few(members: Integers) -> str:
    return ", ".join(map(str, members[:6].tolist())) + (", ..." if len(members) > 6 else "")
