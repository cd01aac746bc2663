"""What the findings of all methods share: places, exhibits, words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_triggers.facts import rounded

from modelguard import Attachment, Chart, Measure, exhibit

if TYPE_CHECKING:
    from modelguard import Target

SHOWN = 4
"""Pictures that go with a finding."""

INDICES = Measure("indices", "samples", "Places of the samples in the data set, from 0.")
CLASS = Measure("class", "class", "The label under which the samples are, as the model numbers its classes.")
P_VALUE = Measure("p_value", "p-value", "How probable parts so far apart are in a class of one kind, after looking at all classes.", "p")
COUNT = Measure("count", "samples named", "How many samples are named.")
FIT = Measure("fit", "fit", "The share of the data set that the model classifies as labelled; low where it was not trained on it.", "share")


def shown_by_class(key: str, title: str) -> Chart:
    """A bar for each class."""
    return Chart("bars", "classes", title, "class", key)


def pictures(target: Target, indices: Sequence[int]) -> tuple[Attachment, ...]:
    """A few of the samples named, spread over them; none where the model takes no images."""
    model, samples = target.model, target.samples
    if samples is None or model.input.kind != "image" or not len(indices):
        return ()
    chosen = [int(indices[place]) for place in np.unique(np.linspace(0, len(indices) - 1, SHOWN).astype(int))]
    images = target.once(("modelguard_audit", "images"), lambda: model.inputs(samples).cpu().numpy())
    return tuple(exhibit(f"sample {index}", images[index], model.input.low, model.input.high) for index in chosen)


def facts(label: int, indices: Sequence[int], **numbers: float) -> dict[str, Any]:
    """The evidence of a finding about one class."""
    return {
        "class": label,
        "count": len(indices),
        "indices": [int(index) for index in indices],
        **{name: rounded(value) for name, value in numbers.items()},
    }
