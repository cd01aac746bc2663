"""The guard's numbers, made in the isolated worker: the model is as untrusted as in a scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_triggers.evidence import require_classifier
from safetensors.numpy import save

from modelguard import (
    Attachment,
    Capability,
    Detector,
    Finding,
    Rule,
    ScanContext,
    Severity,
    Skip,
    Target,
    class_numbers,
    option,
    require_understanding,
)
from modelguard_monitor.guard import SAID, agreement, distance, superposed, unsure

if TYPE_CHECKING:
    from modelguard import RunnableModel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

OVERLAYS = 20
"""Clean images laid over each for STRIP: as many as the Adversarial Robustness Toolbox takes (its ``STRIPMixin``); the paper takes 100."""
OVERLAY_BYTES = 16 << 20
"""Overlays that take more are not kept, and STRIP is left out: a guard is to stay small."""
DIRECTIONS = 1024
"""Leading principal directions that distances are taken along, of wider layers."""
BATCH = 256
PART = 4 << 20
"""Bytes of an attachment."""
PARTS = 16

GUARD_PART = Rule(
    "MONITOR-0001",
    "GuardPart",
    "a part of the guard that `modelguard monitor make` writes",
    Severity.INFO,
    "It carries numbers from the worker to the command, and is in no report.",
    "Nothing is to be done.",
)


@dataclass(frozen=True)
class MakeGuard(Detector):
    """Fits baselines of clean samples on one half of them, and sets thresholds on the other half."""

    id = "monitor-make"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    rules = (GUARD_PART,)
    on_request = True

    false_alarms: float = option(0.01, "the part of clean inputs that may be rejected", ge=1e-6, le=0.5)
    statistics: str = option("", "statistics the guard judges by, with commas between; all that the model allows by default")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        clean = _clean(target, context)
        wanted = tuple(self.statistics.split(",")) if self.statistics else tuple(SAID)
        left_out = {name: reason for name, reason in _obstacles(target.model, clean).items() if name in wanted}
        if self.statistics and left_out:
            raise Skip("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
        chosen = [name for name in SAID if name in wanted and name not in left_out]
        level = self.false_alarms / len(chosen)  # Bonferroni: the guard as a whole keeps the rate
        order = context.rng("split").permutation(len(clean.labels))
        fit, calibrate = order[: len(order) // 2], order[len(order) // 2 :]
        if (needed := fewest(level)) > len(calibrate):
            raise Skip(
                f"{len(order)} samples are too few to promise that at most {self.false_alarms:g} of clean inputs are rejected, by "
                f"{len(chosen)} statistic{'s' if len(chosen) > 1 else ''}: give {2 * needed}, or --false-alarms "
                f"{_rounded_up(len(chosen) / (len(calibrate) + 1))}"
            )
        arrays: dict[str, npt.NDArray[Any]] = {}
        if "features" in chosen:
            arrays["means"], arrays["whiten"] = baseline(clean.features[fit], clean.labels[fit], clean.right[fit], clean.logits.shape[1])
        if "strip" in chosen:
            arrays["overlays"] = clean.inputs[fit[:OVERLAYS]]
        scores = _scores(target.model, clean, arrays, calibrate, chosen, context)
        thresholds = {name: conformal(values, level) for name, values in scores.items()}
        if not np.isfinite(list(thresholds.values())).all():
            raise Skip("the model predicts classes that no sample is of: give samples of every class")
        label = clean.logits[calibrate].argmax(1)
        arrays |= {f"clean.{name}": values for name, values in scores.items()}
        arrays["clean.class"] = np.bincount(label, minlength=clean.logits.shape[1]).astype(np.float64)
        spec = target.model.input
        facts = {
            "thresholds": thresholds,
            "false_alarms": self.false_alarms,
            "left_out": left_out,
            "layer": clean.layer if "features" in chosen else None,
            "labels": list(target.model.output.labels),
            "input": {"kind": spec.kind, "shape": list(clean.inputs.shape[1:]), "low": spec.low, "high": spec.high},
            "samples": {"fit": len(fit), "calibration": len(calibrate), "accuracy": round(float(clean.right.mean()), 6)},
        }
        context.summary(score=0.0, guard=facts)
        yield from _parts(arrays)


@dataclass(frozen=True)
class _Clean:
    """``inputs`` (N, ...) as the model takes them, ``labels`` (N,), ``logits`` (N, K), ``features`` (N, D) of ``layer``, if any."""

    inputs: npt.NDArray[Any]
    labels: Integers
    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    layer: str

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.logits.argmax(1) == self.labels)


def fewest(level: float) -> int:
    """Calibration samples from which a threshold at ``level`` is finite: (n + 1) (1 - level) <= n."""
    return ceil(round(1 / level - 1, 6))


def conformal(scores: Floats, level: float) -> float:
    """The score that a new clean one exceeds with a probability of at most ``level``: of n, the ceil((n + 1) (1 - level))-th smallest
    (Vovk, Gammerman and Shafer 2005, proposition 2.3; split conformal prediction)."""
    rank = ceil(round((len(scores) + 1) * (1 - level), 6))
    return float(np.sort(scores)[rank - 1])


def baseline(
    features: npt.NDArray[Any], labels: Integers, right: npt.NDArray[np.bool_], classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Means (K, D) by class, NaN of one without samples, and W (D, R) with W W^T the inverse of the covariance within classes, from
    features (N, D) of samples the model gets right (Lee et al. 2018, equation 1). The covariance is shrunk as far as its error asks for
    (OAS: Chen et al. 2010, equation 23): there may be fewer samples than features."""
    values, of = features[right].astype(np.float64), labels[right]
    means = np.full((classes, values.shape[1]), np.nan)
    for label in np.unique(of):
        means[label] = values[of == label].mean(0)
    within = values - means[of]
    count, width = within.shape
    cov = within.T @ within / count  # (D, D)
    squares, trace = float((cov**2).sum()), float(np.trace(cov))
    if trace == 0:
        raise Skip("the features of clean samples do not vary within their classes: leave `features` out (--statistic)")
    spread = (count + 1 - 2 / width) * (squares - trace**2 / width)
    shrink = min(1.0, ((1 - 2 / width) * squares + trace**2) / spread) if spread > 0 else 1.0
    values_, axes = np.linalg.eigh((1 - shrink) * cov + shrink * trace / width * np.eye(width))  # ascending
    whiten = axes[:, -DIRECTIONS:] / np.sqrt(values_[-DIRECTIONS:])
    return means.astype(np.float32), whiten.astype(np.float32)


def _clean(target: Target, context: ScanContext) -> _Clean:
    """What the model makes of the samples. Raises :class:`~modelguard.Skip` where no guard can be made of that."""
    import torch

    samples = target.samples
    if samples is None:
        raise Skip("a guard is made of clean samples: give --samples")
    if samples.labels is None:
        raise Skip("the samples have no labels, and nothing says that the model gets them right: give labels as well")
    if len(np.unique(samples.labels)) < 2:
        raise Skip("all samples are of one class: give samples of every class")
    model = target.model
    require_classifier(model, 2)
    require_understanding(model, samples)
    labels = class_numbers(model, samples)
    assert labels is not None
    x = model.inputs(samples)
    layer = penultimate(model)
    logits, features = [], []
    for begin in range(0, len(x), BATCH):
        context.check_deadline()
        context.progress(begin, len(x), "clean samples")
        batch = x[begin : begin + BATCH]
        with torch.inference_mode():
            out, seen = model.capture(batch, [layer]) if layer else (model.forward(batch), {})
        logits.append(out.float().cpu().numpy())
        features.append(per_unit(model, layer, seen[layer]).float().cpu().numpy() if layer else np.zeros((len(batch), 0), np.float32))
    return _Clean(x.cpu().numpy(), labels, np.concatenate(logits), np.concatenate(features), layer)


def penultimate(model: RunnableModel) -> str:
    """The last layer before the logits (of which a binary classifier may have one), "" where the model shows no such layer."""
    logits = (model.output.classes, 1)
    return next((layer.name for layer in reversed(model.layers) if prod(layer.shape) not in logits), "")


def per_unit(model: RunnableModel, name: str, activation: Any) -> Any:
    """(N, units) of an activation with the batch in front: the mean over positions."""
    axis = next(layer.unit_axis for layer in model.layers if layer.name == name)
    moved = activation.movedim(axis if axis < 0 else axis + 1, 1)  # (N, units, ...)
    return moved.flatten(2).mean(2) if moved.ndim > 2 else moved


def _obstacles(model: RunnableModel, clean: _Clean) -> dict[str, str]:
    """Statistics that this model does not allow, and why."""
    reasons = {}
    if not clean.layer:
        reasons["features"] = "the model shows no layer before its logits"
    if model.input.kind != "image":
        reasons["strip"] = f"the model takes {model.input.kind} inputs, which cannot be laid over one another"
    elif (size := OVERLAYS * clean.inputs[0].nbytes) > OVERLAY_BYTES:
        reasons["strip"] = f"{OVERLAYS} images of this size take {size >> 20} MiB"
    elif len(clean.labels) < 2 * OVERLAYS:
        reasons["strip"] = f"{len(clean.labels)} samples are too few to lay {OVERLAYS} over others"
    return reasons


def _scores(
    model: RunnableModel, clean: _Clean, arrays: dict[str, npt.NDArray[Any]], places: Integers, chosen: list[str], context: ScanContext
) -> dict[str, Floats]:
    """(n,) scores, by statistic, of the samples at ``places``, as the guard computes them."""
    logits = clean.logits[places]
    found: dict[str, Floats] = {}
    for name in chosen:
        if name == "confidence":
            values = unsure(logits)
        elif name == "features":
            values = distance(clean.features[places], logits.argmax(1), arrays["means"], arrays["whiten"])
        else:
            values = np.concatenate(list(_overlaid(model, clean.inputs[places], arrays["overlays"], context)))
        found[name] = np.where(np.isnan(values), np.inf, values)
    return found


def _overlaid(model: RunnableModel, inputs: npt.NDArray[Any], overlays: npt.NDArray[Any], context: ScanContext) -> Iterator[Floats]:
    step = max(1, BATCH // len(overlays))
    for begin in range(0, len(inputs), step):
        context.check_deadline()
        context.progress(begin, len(inputs), "overlays")
        batch = inputs[begin : begin + step]
        laid = superposed(batch, overlays, model.input.low, model.input.high)
        yield agreement(model.predict(laid).reshape(len(batch), len(overlays), -1))


def _parts(arrays: dict[str, npt.NDArray[Any]]) -> Iterator[Finding]:
    """The arrays as one safetensors file, in pieces that answers of a worker may have."""
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    if len(data) > PART * PARTS:
        raise Skip(f"the guard would take {len(data) >> 20} MiB, and at most {PART * PARTS >> 20} are written: leave a statistic out")
    for number, begin in enumerate(range(0, len(data), PART)):
        piece = Attachment("guard", "application/octet-stream", data[begin : begin + PART])
        yield Finding(GUARD_PART.id, f"part {number} of the guard", evidence={"part": number}, attachments=(piece,), key=f"{number}")


def _rounded_up(rate: float) -> str:
    """``rate`` with three digits behind the point, or none where that is more than may be asked."""
    return f"{min(0.5, ceil(rate * 1000) / 1000):g}"
