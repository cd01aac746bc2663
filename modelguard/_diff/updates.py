"""Client updates of one round of federated learning: which of them is scaled, and which the suspect follows.

Model replacement (Bagdasaryan et al. 2020, section 4.2): one client submits gamma (X - G) where G is the global model, X its own and gamma
about the number of clients, so that the average becomes X. The update stands out by its norm, and the new global model points its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.grid import F64, FLOATS, widen
from modelguard._diff.model_level import KINDS, ModelChange
from modelguard._diff.rules import SEVERITY
from modelguard._formats.opening import open_artifact
from modelguard._formats.safetensors import SafetensorsFormat
from modelguard._sources.local import LocalSource
from modelguard.artifact import SourceContext
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Skip
from modelguard.errors import SourceError

LEAST = 3
"""Updates under which there are no others to compare one with."""
MOST = 1000
SCALED, DEVIATES = 6.0, 3.5
"""Norms of the median update, and deviations of the logarithm of its norm, from which an update is scaled: both.

Deviations are taken from the median in units of 1.4826 times the median deviation; 3.5 is the usual limit (Iglewicz and Hoaglin, How to
Detect and Handle Outliers, 1993). The norm was set on the seeds below 100 of benchmarks/tampering.py. Updates scaled tenfold had 14 norms
and 9.7 deviations or more (8.3 and 5.0 where honest clients learn at two and a half times the rate), honest ones of more than 3.5
deviations up to 4.8 norms. Both are needed: clients of whose images nine tenths are of one class differ so much among themselves that one
had 10.7 norms at 2.3 deviations.
"""
FOLLOWED = 0.5**0.5
"""Cosine of an update and what was done to the reference from which the suspect follows it: half of the change lies along the update, by
squared norm. Model replacement leaves less than all, because the other clients' updates, which have a direction in common, count too."""
FARTHEST = 1e6
"""What is said of an update where most of the others hold nothing."""
CLEAR = 0.5
"""One reading of an update (a change, or a whole model) is clear where its norm is at most this part of the other's."""
BLOCK = 1 << 18
"""Entries of all updates that are looked at together."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update beside the others.

    ``form`` is how it was given: ``delta``, or a whole ``model`` from which the reference is taken off. ``norm_ratio`` is its norm in
    norms of the median update, ``deviation`` how far its logarithm lies from theirs (:data:`SCALED`), ``cosine`` its cosine to the
    coordinate-wise median of the others, ``followed`` that to what was done to the reference.
    """

    name: str
    form: str
    norm_ratio: float
    deviation: float
    cosine: float
    followed: float

    @property
    def scaled(self) -> bool:
        """Whether it is far larger than the others."""
        return self.norm_ratio >= SCALED and self.deviation >= DEVIATES

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return asdict(self)

    def sentence(self) -> str:
        """What a finding says of an update that is scaled."""
        follows = f", and the suspect follows it (cosine {self.followed:.2f})" if self.followed >= FOLLOWED else ""
        return (
            f"the update {self.name} is {self.norm_ratio:.3g} times as large as the median one{follows};"
            f" its cosine to the median of the others is {self.cosine:.2f}"
        )


@dataclass(frozen=True, slots=True)
class Updates:
    """What a folder holds: one checkpoint a client, and the tensors that all of them have."""

    clients: tuple[Checkpoint, ...]
    names: tuple[str, ...]

    @classmethod
    def open(cls, folder: str, reference: Sequence[Checkpoint]) -> Updates:
        """The safetensors files of ``folder``. Raises :class:`Skip` where they are no updates of ``reference``."""
        place = Path(folder)
        if not place.is_dir():
            raise Skip(f"--updates {place.name}: is no folder; name the folder that holds one safetensors file a client")
        try:
            opened = open_artifact(LocalSource().fetch(folder, SourceContext(digest=False)), [SafetensorsFormat()])
        except SourceError as error:
            raise Skip(f"--updates {error}") from error
        if opened.problems:
            raise Skip(f"--updates {place.name}: {opened.problems[0].message}")
        clients = opened.checkpoints
        if not LEAST <= len(clients) <= MOST:
            raise Skip(
                f"--updates {place.name}: holds {len(clients)} updates, and {LEAST} to {MOST} are needed to compare one with the others"
            )
        floats = _floats(clients[0])
        known = _held(reference)
        for client in clients:
            shapes = _floats(client)
            if shapes.keys() != floats.keys():
                raise Skip(f"--updates {place.name}: {client.name} does not hold the same tensors as {clients[0].name}")
            for name, shape in shapes.items():
                if name not in known:
                    raise Skip(f"--updates {place.name}: {client.name} holds {name}, which the reference does not have")
                if known[name][1] != shape:
                    said = f"{list(shape)}, and {list(known[name][1])} in the reference"
                    raise Skip(f"--updates {place.name}: {name} of {client.name} has shape {said}; name updates of this reference")
        if not floats:
            raise Skip(f"--updates {place.name}: {clients[0].name} holds no floats")
        return cls(clients, tuple(sorted(floats)))

    def compare(self, reference: Sequence[Checkpoint], suspect: Sequence[Checkpoint], check: Callable[[], None]) -> tuple[Update, ...]:
        """Every update beside the others, in order of name; ``check`` may raise to stop.

        Raises :class:`Skip` where the suspect lacks one of their tensors, or an update holds what is no number.
        """
        before, after = _held(reference), _held(suspect)
        for name in self.names:
            if name not in after or after[name][1] != before[name][1]:
                raise Skip(f"--updates: the suspect holds no {name} of the updates' shape")
        delta, model = np.zeros(len(self.clients)), np.zeros(len(self.clients))
        for _, values, old, _ in self._blocks(before, after, check):
            delta += (values**2).sum(axis=1)
            model += ((values - old) ** 2).sum(axis=1)
        if not np.isfinite(delta).all():
            name = self.clients[int(np.argmin(np.isfinite(delta)))].name
            raise Skip(f"--updates: {name} holds values that are not finite; leave it out")
        whole = _whole(delta, model)
        norms = np.sqrt(np.where(whole, model, delta))
        to_others, others, to_suspect, moved = (np.zeros(len(self.clients)) for _ in range(4))
        for _, values, old, new in self._blocks(before, after, check):
            values = values - np.where(whole[:, None], old, 0.0)
            for client in range(len(values)):
                median = np.median(np.delete(values, client, axis=0), axis=0)
                to_others[client] += values[client] @ median
                others[client] += median @ median
            difference = np.where(np.isfinite(new - old), new - old, 0.0)
            to_suspect += values @ difference
            moved += difference @ difference
        ratios, deviations = _beside(norms)
        return tuple(
            Update(
                client.name,
                "model" if whole[at] else "delta",
                round(float(ratios[at]), 4),
                round(float(deviations[at]), 4),
                round(_cosine(to_others[at], norms[at] ** 2, others[at]), 4),
                round(_cosine(to_suspect[at], norms[at] ** 2, moved[at]), 4),
            )
            for at, client in enumerate(self.clients)
        )

    def _blocks(self, before: _Held, after: _Held, check: Callable[[], None]) -> Iterator[tuple[str, F64, F64, F64]]:
        """Name, updates (clients, entries), reference and suspect (entries,), block by block."""
        step = max(1, BLOCK // len(self.clients))
        for name in self.names:
            flat = [client.read(name).reshape(-1) for client in self.clients]
            old, new = (side[name][0].read(name).reshape(-1) for side in (before, after))
            for start in range(0, old.size, step):
                check()
                part = slice(start, start + step)
                with np.errstate(all="ignore"):
                    yield name, np.stack([_wide(values[part]) for values in flat]), _wide(old[part]), _wide(new[part])


def scaled(sent: Sequence[Update]) -> list[Update]:
    """Those that are far larger than the others, the largest first."""
    return sorted((item for item in sent if item.scaled), key=lambda item: -item.norm_ratio)


def told(change: ModelChange, sent: Sequence[Update]) -> dict[str, Any]:
    """What the summary says of them: ``updates``, each with its numbers, ``follows``, and ``verdict`` and ``reason`` anew.

    The verdict is ``scaled-update`` where the suspect follows one that is scaled, and nothing graver was done than ``change``.
    """
    kind, found = KINDS["scaled-update"], scaled(sent)
    replaced = any(item.followed >= FOLLOWED for item in found) and change.severity <= int(SEVERITY[kind.rule])
    return {
        "verdict": kind.name if replaced else change.kind,
        "updates": [item.plain() for item in sent],
        "follows": max(sent, key=lambda item: item.followed).name,
        "reason": f"{change.reason}; {found[0].sentence() if found else f'none of {len(sent)} updates is scaled'}",
    }


_Held = Mapping[str, tuple[Checkpoint, tuple[int, ...]]]


def _held(checkpoints: Sequence[Checkpoint]) -> _Held:
    """Where each float tensor lies, and its shape; of two checkpoints that hold it the first."""
    held: dict[str, tuple[Checkpoint, tuple[int, ...]]] = {}
    for checkpoint in checkpoints:
        for name, shape in _floats(checkpoint).items():
            held.setdefault(name, (checkpoint, shape))
    return held


def _floats(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in checkpoint.tensors.items() if info.dtype in FLOATS}


def _whole(delta: F64, model: F64) -> npt.NDArray[np.bool_]:
    """Which updates are whole models, from their squared norms read either way: a model lies near the reference, a change near zero.

    A scaled one may lie near neither; it is read as most of the clear ones are.
    """
    is_model, is_delta = model <= CLEAR**2 * delta, delta <= CLEAR**2 * model
    mostly = np.count_nonzero(is_model) > np.count_nonzero(is_delta)
    return np.asarray(np.where(is_model | is_delta, is_model, mostly), bool)


def _beside(norms: F64) -> tuple[F64, F64]:
    """Each norm in medians, at most :data:`FARTHEST`, and the robust deviation of its logarithm."""
    ratios = np.clip(norms / max(float(np.median(norms)), 1e-300), 1 / FARTHEST, FARTHEST)
    logarithms = np.log(ratios)
    away = logarithms - np.median(logarithms)
    return ratios, np.asarray(np.clip(away / max(1.4826 * float(np.median(np.abs(away))), 1e-12), -FARTHEST, FARTHEST))


def _wide(values: npt.NDArray[Any]) -> F64:
    return widen(np.ascontiguousarray(values))


def _cosine(product: float, left: float, right: float) -> float:
    scale = float(left * right) ** 0.5
    return float(np.clip(product / scale, -1, 1)) if 0 < scale < np.inf else 0.0
