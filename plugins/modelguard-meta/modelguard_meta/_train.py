"""From a model's architecture and clean samples of its task to a meta-classifier."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from modelguard import Skip, Target, UsageError, class_numbers
from modelguard_meta._architecture import described, fingerprint
from modelguard_meta._calibration import LEVEL, auroc, threshold
from modelguard_meta._file import Facts, MetaFile, write
from modelguard_meta._meta import Meta, learn
from modelguard_meta._network import Network, Weights
from modelguard_meta._shadows import Images, Shadows, joined, train_shadows

if TYPE_CHECKING:
    from modelguard_runtime import TorchModel

Floats = npt.NDArray[np.float32]

LEAST_SAMPLES = 100
"""Samples below which shadows learn too little to be told apart by."""
LEARNT = 0.5
"""Median clean accuracy of benign shadows below which they have not learnt the task, and show nothing."""
VALIDATION = 4
"""Of so many shadows to learn from, one chooses the step at which the meta-classifier is kept."""


@dataclass(frozen=True)
class Plan:
    """``shadows`` of either kind to learn from and ``held_out`` of either kind to calibrate and measure on; the same ``seed``, samples and
    version of torch give the same meta-classifier on one machine."""

    shadows: int = 64
    held_out: int = 40
    seed: int = 0


def train(target: Target, path: Path, plan: Plan, tick: Callable[[str], None]) -> MetaFile:
    """Train shadows and meta-classifier for the architecture of ``target`` on its samples, and write them to ``path``.

    Raises :class:`UsageError` where architecture or samples do not do, or the shadows do not learn.
    """
    began = time.process_time()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order, on any machine
    try:
        model, images = _inputs(target)
        classes, spec = model.output.classes, model.input
        network = Network(model)
        made = train_shadows(network, images, spec, plan.shadows + plan.held_out, classes, plan.seed, tick)
        kinds = [made.only(~made.trojaned), made.only(made.trojaned)]
        _require_learnt(kinds, plan)
        learnt, validation, held_out = _divided(kinds, plan)
        meta = learn(network, learnt, validation, spec, classes, plan.seed, tick)
        benign, trojaned = (_scores(network, meta, held_out.only(held_out.trojaned == kind).weights) for kind in (False, True))
        probes = torch.stack([images.x[images.y == k].mean(0) for k in range(classes)])
        with torch.no_grad():
            called = network.logits(held_out.only(~held_out.trojaned).weights, probes).argmax(2)  # (M, K)
    finally:
        torch.set_num_threads(threads)
    samples = target.samples
    assert samples is not None
    facts = Facts(
        architecture=fingerprint(target),
        described=described(target),
        samples={"sha256": samples.sha256, "name": samples.origin, "count": len(images.y)},
        shadows={
            "benign": int((~learnt.trojaned).sum() + (~validation.trojaned).sum()),
            "trojaned": int(learnt.trojaned.sum() + validation.trojaned.sum()),
            "held_out_benign": len(benign),
            "held_out_trojaned": len(trojaned),
            "not_taken": 2 * (plan.shadows + plan.held_out) - len(made),
        },
        quality={
            "benign_accuracy": _median(kinds[0].accuracy),
            "trojaned_accuracy": _median(kinds[1].accuracy),
            "attack_success": _median(kinds[1].success),
            "agreement": _median((called == torch.arange(classes)).float().mean(1)),
        },
        auroc=round(auroc(benign, trojaned), 4),
        level=LEVEL,
        threshold=threshold(benign),
        seed=plan.seed,
        cpu_seconds=round(time.process_time() - began, 1),
        versions={"modelguard": version("modelguard-meta"), "torch": torch.__version__},
    )
    weights: dict[str, Any] = {name: value.detach().numpy().astype(np.float32) for name, value in vars(meta).items()}
    return write(path, facts, {**weights, "benign": benign, "trojaned": trojaned, "probes": probes.numpy().astype(np.float32)})


def _inputs(target: Target) -> tuple[TorchModel, Images]:
    """The model whose architecture it is, and the samples as it takes them."""
    from modelguard_runtime import TorchModel

    try:
        model = target.model
    except Skip as reason:
        raise UsageError("--architecture", f"cannot be run: {reason}", "see `modelguard model`") from reason
    samples = target.samples
    assert samples is not None
    if not isinstance(model, TorchModel) or model.facts.forward_only:
        raise UsageError("--architecture", "runs forward only, and shadows have to be trained", "give a float model of supported operators")
    if model.input.kind != "image" or model.output.kind != "classifier":
        raise UsageError("--architecture", "is no classifier of images, and the triggers are images", "give a classifier of images")
    if any(size < 1 for size in model.input.shape):
        raise UsageError("--architecture", "takes images of any size", "say --input shape=CxHxW")
    if (labels := class_numbers(model, samples)) is None:
        raise UsageError(samples.origin, "has no labels, and shadows are trained on them", "give samples with labels")
    images = Images(model.inputs(samples).cpu().float(), torch.from_numpy(labels))
    if len(labels) < LEAST_SAMPLES or len(np.unique(labels)) < model.output.classes:
        cause = f"has {len(labels)} samples of {len(np.unique(labels))} of the {model.output.classes} classes"
        raise UsageError(samples.origin, cause, f"give {LEAST_SAMPLES} or more, of every class")
    return model, images


def _require_learnt(kinds: list[Shadows], plan: Plan) -> None:
    benign, trojaned = kinds
    if (accuracy := _median(benign.accuracy)) < LEARNT:
        cause = f"do not learn the task: half of them are right on at most {accuracy:.0%} of unseen samples"
        raise UsageError("the shadow models", cause, "give more samples, or another architecture")
    if 2 * len(trojaned) < plan.shadows + plan.held_out:
        cause = f"do not take triggers: {len(trojaned)} of {plan.shadows + plan.held_out} did"
        raise UsageError("the shadow models", cause, "give more samples, or another architecture")


def _divided(kinds: list[Shadows], plan: Plan) -> tuple[Shadows, Shadows, Shadows]:
    """Those to learn from, to choose the step by, and held out; of either kind in each, in the shares of the plan."""
    parts: list[list[Shadows]] = [[], [], []]
    for kind in kinds:
        held_out = round(len(kind) * plan.held_out / (plan.shadows + plan.held_out))
        learnt = len(kind) - held_out
        edges = (0, learnt - learnt // VALIDATION, learnt, len(kind))
        for part, start, end in zip(parts, edges, edges[1:], strict=False):
            part.append(kind.only(torch.arange(start, end)))
    first, second, third = (joined(part) for part in parts)
    return first, second, third


def _scores(network: Network, meta: Meta, weights: Weights) -> Floats:
    with torch.no_grad():
        return meta.score(network.logits(weights, meta.queries.flatten(0, 1))).numpy().astype(np.float32)


def _median(values: torch.Tensor) -> float:
    return round(float(values.median()), 4)
