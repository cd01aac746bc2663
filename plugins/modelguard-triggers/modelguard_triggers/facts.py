"""What a finding says and shows: where a trigger works, classes by number and name, rounded numbers, exhibits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from modelguard import Attachment, exhibit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from modelguard import RunnableModel
    from modelguard_triggers.outliers import Floats

SMALLEST_P = 1e-12
MOST_SHOWN, SMALL = 4, 64 * 64
WORKS = 0.5
"""Attack success from which a class counts as a source of a trigger."""


def rounded(value: SupportsFloat) -> float:
    """To six digits: what differs beyond them differs between machines."""
    return float(f"{float(value):.6g}")


def score(p: float) -> float:
    """-log10 of a p-value: 1.3 is 5 %. Larger is more suspicious."""
    return -math.log10(max(SMALLEST_P, p))


def class_name(model: RunnableModel, index: int) -> str:
    """``3``, or ``3 (stop sign)`` where the classes have names."""
    labels = model.output.labels
    name = labels[index] if index < len(labels) else ""
    return f"{index} ({name})" if name else str(index)


def success_rate(hits: Tensor, asked: Tensor) -> Floats:
    """(A,) the share of the images ``asked`` (A, M) bool that are ``hits`` (A, M) bool; 0 where none was asked."""
    rate: Floats = ((hits & asked).sum(1) / asked.sum(1).clamp(min=1)).double().numpy()
    return rate


def by_class(hits: Tensor, asked: Tensor, labels: Tensor) -> dict[int, float]:
    """Attack success per source class, of one trigger: ``hits``, ``asked`` (M,) bool, ``labels`` (M,) of the images."""
    return {int(label): float(hits[asked & (labels == label)].float().mean()) for label in sorted(set(labels[asked].tolist()))}


def source_classes(rates: dict[int, float]) -> dict[str, Any]:
    """The evidence ``source_classes`` and ``attack_success_by_class`` from what :func:`by_class` found."""
    return {
        "source_classes": sorted(label for label, rate in rates.items() if rate >= WORKS),
        "attack_success_by_class": {str(label): rounded(rate) for label, rate in sorted(rates.items())},
    }


Stamped = Sequence[tuple[int, "npt.NDArray[np.floating[Any]]"]]
"""Images (C, H, W) that carry a trigger, each with the class it shows."""


def examples(asked: Tensor, labels: Tensor, pixels: int) -> list[int]:
    """Places of the images to show a trigger on: the first that is ``asked`` (M,) of each of a few classes, ``labels`` (M,).

    Of images of many ``pixels`` one is enough: pictures are most of a report's size.
    """
    places = asked.nonzero().flatten().tolist()
    first: dict[int, int] = {}
    for place in places:
        first.setdefault(int(labels[place]), place)
    return sorted(first.values())[: MOST_SHOWN if pixels <= SMALL else 1]


def mask_exhibits(
    trigger: npt.NDArray[np.floating[Any]],
    mask: npt.NDArray[np.floating[Any]],
    stamped: Stamped,
    bounds: tuple[float, float],
    *,
    trigger_bounds: tuple[float, float],
) -> tuple[Attachment, ...]:
    """``trigger``, ``mask`` and ``stamped class 3``, ...: the trigger alone (C, H, W), where it goes (1, H, W) in 0..1, and images that
    carry it."""
    return exhibit("trigger", trigger, *trigger_bounds), exhibit("mask", mask, 0, 1), *_on_images(stamped, bounds)


def change_exhibits(image: npt.NDArray[np.floating[Any]], stamped: Stamped, bounds: tuple[float, float]) -> tuple[Attachment, ...]:
    """``trigger`` and ``stamped class 3``, ... of a trigger that shows only on an image: what it does to ``image``, the first of the
    ``stamped`` as it was, grey where that is nothing, and the results."""
    low, high = bounds
    change = (stamped[0][1] - image) / 2 + (low + high) / 2
    return exhibit("trigger", change, low, high), *_on_images(stamped, bounds)


def _on_images(stamped: Stamped, bounds: tuple[float, float]) -> tuple[Attachment, ...]:
    return tuple(exhibit(f"stamped class {label}", image, *bounds) for label, image in stamped)
