"""Accept or reject what a model is given. ``modelguard monitor make`` writes this file beside ``guard.safetensors``; it needs numpy alone.

    guard = Guard("guard.safetensors")
    verdicts = guard.judge(logits, features=features, overlaid=model(guard.superpose(x)))

``features`` are the activations of the layer ``guard.facts["layer"]``, averaged over positions. One line of JSON for each verdict is a
log that ``modelguard monitor replay`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
GUARD = "modelguard-guard/1"
SAID = {
    "confidence": "the model is less sure than it is of clean inputs",
    "features": "the features are unlike those of clean inputs of the class predicted",
    "strip": "the prediction stays the same whatever is laid over the input, as it does with a trigger",
}


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Facts and arrays (F32 or F64) of a guard. Raises ``ValueError`` for another file."""
    data = Path(path).read_bytes()
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        facts = json.loads(header.pop("__metadata__")["guard"])
        arrays = {}
        for name, item in header.items():
            start, stop = item["data_offsets"]
            kind = {"F32": "<f4", "F64": "<f8"}[item["dtype"]]
            arrays[name] = np.frombuffer(data[end + start : end + stop], kind).reshape(item["shape"])
        needed = {"clean.class", *(f"clean.{name}" for name in facts["thresholds"])}
        if facts["format"] != GUARD or not set(facts["thresholds"]) <= set(SAID) or not needed <= set(arrays):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{Path(path).name} is not a guard that modelguard wrote") from None
    return facts, arrays


def unsure(logits: npt.ArrayLike) -> Floats:
    """(N,) log((1 - p) / p) of the largest softmax probability p (Hendrycks and Gimpel 2017, section 2) of logits (N, K)."""
    z = np.sort(np.asarray(logits, np.float64), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.log(np.exp(z[:, :-1] - z[:, -2:-1]).sum(1)) + z[:, -2] - z[:, -1])


def superposed(x: npt.NDArray[Any], overlays: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """(N * M, ...) inputs (N, ...) with each overlay (M, ...) added, as far as the range goes: STRIP's code adds and saturates."""
    added = np.minimum(x[:, None].astype(np.float32) + overlays[None].astype(np.float32) - np.float32(low), np.float32(high))
    return np.asarray(added.reshape(-1, *x.shape[1:]))


def agreement(overlaid: npt.ArrayLike) -> Floats:
    """(N,) minus the mean entropy, in nats, of the answers (N, M, K) to an input under M overlays (STRIP, Gao et al. 2019, equation 4)."""
    z = np.asarray(overlaid, np.float64)
    with np.errstate(invalid="ignore"):
        logs = z - z.max(2, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(2, keepdims=True))
        return np.asarray((np.exp(logs) * logs).sum(2).mean(1))


def distance(features: npt.ArrayLike, label: npt.NDArray[np.int64], means: npt.NDArray[Any], whiten: npt.NDArray[Any]) -> Floats:
    """(N,) squared Mahalanobis distance of features (N, D) to the mean of the class predicted, with one covariance for all classes (Lee et
    al. 2018, equation 2, which takes the nearest class: a trigger's features are near another class than the one predicted)."""
    with np.errstate(invalid="ignore"):
        away = np.asarray(features, np.float64) - means.astype(np.float64)[label]  # (N, D)
        return np.asarray(((away @ whiten.astype(np.float64)) ** 2).sum(1))  # whiten (D, R)


class Guard:
    """``facts`` say what the guard was made of. ``thresholds`` are the largest scores that are accepted, by statistic."""

    def __init__(self, path: str | Path) -> None:
        self.facts, self.arrays = read(path)
        self.thresholds: dict[str, float] = self.facts["thresholds"]

    def superpose(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(N * M, ...) inputs (N, ...) in the model's raw range with each of the M overlays laid over them, for the model to judge."""
        return superposed(np.asarray(x), self.arrays["overlays"], self.facts["input"]["low"], self.facts["input"]["high"])

    def scores(
        self, logits: npt.ArrayLike, features: npt.ArrayLike | None = None, overlaid: npt.ArrayLike | None = None
    ) -> dict[str, Floats]:
        """Scores (N,) by statistic, larger is more suspicious: of logits (N, K), features (N, D), and logits (N * M, K) under overlays.

        What has no score, because a value is not finite or the class predicted was in no clean sample, is infinitely suspicious.
        """
        z = np.asarray(logits, np.float64)
        found = {"confidence": unsure(z)}
        if features is not None:
            found["features"] = distance(features, z.argmax(1), self.arrays["means"], self.arrays["whiten"])
        if overlaid is not None:
            found["strip"] = agreement(np.asarray(overlaid).reshape(len(z), -1, z.shape[1]))
        return {name: np.where(np.isfinite(z).all(1) & ~np.isnan(score), score, np.inf) for name, score in found.items()}

    def judge(
        self,
        logits: npt.ArrayLike,
        features: npt.ArrayLike | None = None,
        overlaid: npt.ArrayLike | None = None,
        only: Collection[str] = tuple(SAID),
    ) -> list[dict[str, Any]]:
        """A verdict for each input: ``accept``, ``reason``, ``label``, ``confidence``, ``scores``.

        Raises ``ValueError`` where a statistic of the guard has nothing to look at and ``only`` does not leave it out.
        """
        scores = self.scores(logits, features, overlaid)
        asked = [name for name in self.thresholds if name in only]
        if missing := [name for name in asked if name not in scores]:
            raise ValueError(f"the guard judges by {', '.join(missing)} too: give what that needs, or name the others with only=")
        label = np.asarray(logits).argmax(1)
        verdicts = []
        for i in range(len(label)):
            above = [name for name in asked if not scores[name][i] <= self.thresholds[name]]
            verdicts.append(
                {
                    "accept": not above,
                    "reason": "; ".join(SAID[name] for name in above),
                    "label": int(label[i]),
                    "confidence": float(1 / (1 + np.exp(scores["confidence"][i]))),
                    "scores": {name: float(scores[name][i]) for name in asked},
                }
            )
        return verdicts
