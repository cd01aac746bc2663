"""``channel-lipschitz``: how much each channel can amplify its input. A mitigation's statistic, kept to show what it is worth here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard import Capability, Checkpoint, Confidence, Detector, Finding, Location, ModelError, ScanContext, Skip, Target, option
from modelguard_companions._measures import LIPSCHITZ
from modelguard_companions._rules import LIPSCHITZ_OUTLIER

if TYPE_CHECKING:
    from modelguard import RunnableModel

MIN_CHANNELS = 8
"""A layer with fewer channels has no outliers to speak of."""
FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class ChannelLipschitz(Detector):
    """The upper bound of each convolution channel's Lipschitz constant, and how far the largest of a layer lies above the others.

    UCLC (Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022, equation 6): the largest singular value
    of the channel's kernel as a c_in x k^2 matrix, times the gain of the batch norm that follows. The paper prunes channels beyond
    mean + u * standard deviation. As a detector it did not separate backdoored from clean models wherever it was tried.
    """

    id = "channel-lipschitz"
    requires = frozenset({Capability.WEIGHTS})
    rules = (LIPSCHITZ_OUTLIER,)
    shows = LIPSCHITZ

    deviations: float = option(5.0, "report channels beyond this many standard deviations above their layer's mean", gt=0, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        checkpoint = _with_convolutions(target)
        pairs, unpaired = _batch_norms(checkpoint, target)
        rows: list[dict[str, Any]] = []
        found: list[tuple[float, int, float, str]] = []
        for name, norm in pairs.items():
            context.check_deadline()
            bound = channel_bounds(checkpoint.read(name).astype(np.float64), _gain(checkpoint, norm))  # (C_out,)
            spread = float(bound.std(ddof=1))
            z = (bound - bound.mean()) / spread if spread > 0 else np.zeros(len(bound))
            channel = int(z.argmax())
            found.append((float(z[channel]), channel, float(bound[channel]), name))
            rows.append(
                {"tensor": name, "norm": norm, "channel": channel, "z": round(float(z[channel]), 5), "outliers": int((z > 3).sum())}
            )
        context.summary(score=round(max(row["z"] for row in rows), 6), layers=rows, unpaired=unpaired)
        for z_top, channel, value, name in found:
            if z_top > self.deviations:
                yield Finding(
                    "MG3033",
                    f"channel {channel} of {name} can amplify its input {z_top:.1f} standard deviations more than its layer's other "
                    "channels; clean networks have such channels too",
                    confidence=Confidence.LOW,
                    location=Location(checkpoint.tensors[name].file, name),
                    evidence={"channel": channel, "z": z_top, "bound": value},
                    key=f"channel {channel}",
                )


def channel_bounds(kernel: npt.NDArray[np.float64], gain: npt.NDArray[np.float64] | float = 1.0) -> npt.NDArray[np.float64]:
    """(C_out,) bounds of a convolution kernel (C_out, C_in, kH, kW) followed by a batch norm of per-channel ``gain``."""
    matrices = kernel.reshape(*kernel.shape[:2], -1)  # (C_out, C_in, k^2)
    bounds: npt.NDArray[np.float64] = np.asarray(np.linalg.svd(matrices, compute_uv=False)[:, 0] * np.abs(gain), np.float64)
    return bounds


def _with_convolutions(target: Target) -> Checkpoint:
    """The checkpoint with most convolution kernels; the one that still has its batch norms where several hold the same network."""

    def rank(checkpoint: Checkpoint) -> tuple[int, int]:
        return (len(_kernels(checkpoint)), sum(name.endswith("running_var") for name in checkpoint.tensors))

    best = max(target.checkpoints, key=rank, default=None)
    if best is None or rank(best)[0] == 0:
        raise Skip(f"there is no convolution with {MIN_CHANNELS} channels or more")
    return best


def _kernels(checkpoint: Checkpoint) -> list[str]:
    """Tensors that are convolution kernels with enough channels. Depthwise kernels are scalars times a filter, and are left out."""
    return [
        name
        for name, info in checkpoint.tensors.items()
        if len(info.shape) == 4 and info.shape[0] >= MIN_CHANNELS and info.shape[1] > 1 and info.dtype in FLOATS
    ]


def _batch_norms(checkpoint: Checkpoint, target: Target) -> tuple[Mapping[str, str | None], list[str]]:
    """Each kernel with the batch norm that takes its output (None where norms are folded in), and the kernels for which that is unknown.

    The next norm by name is the right one in networks that normalise after convolving, and the wrong one where a norm comes first
    (pre-activation ResNets): a pair counts once the model bears it out. Raises :class:`Skip` when no kernel is left.
    """
    norms = sorted((name.removesuffix(".running_var") for name in checkpoint.tensors if name.endswith(".running_var")), key=_natural)
    kernels = _kernels(checkpoint)
    if not norms:
        return dict.fromkeys(kernels), []
    try:
        model = target.model
    except (Skip, ModelError):
        model = None
    pairs: dict[str, str | None] = {}
    for name in kernels:
        layer, channels = name.removesuffix(".weight"), checkpoint.tensors[name].shape[0]
        fitting = [norm for norm in norms if checkpoint.tensors[f"{norm}.running_var"].shape == (channels,)]
        parent = layer.rpartition(".")[0]
        close = [norm for norm in fitting if norm.rpartition(".")[0] == parent and norm not in pairs.values()]
        after = [norm for norm in close if _number(norm) >= _number(layer)]
        if after and (model is None or _follows(model, layer, after[0]) is not False):
            pairs[name] = after[0]
    if not pairs:
        raise Skip("the batch norms of this network cannot be matched to its convolutions, and without them the bound means nothing")
    return pairs, sorted(set(kernels) - set(pairs))


def _follows(model: RunnableModel, conv: str, norm: str) -> bool | None:
    """Whether ``norm``'s output is channel by channel affine in ``conv``'s on random inputs; None where one is not a layer."""
    import torch

    shapes = {layer.name: layer.shape for layer in model.layers}
    if conv not in shapes or norm not in shapes:
        return None
    if shapes[conv] != shapes[norm]:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((8, *map(abs, model.input.shape)), generator=generator) * (model.input.high - model.input.low) + model.input.low
    with torch.inference_mode():
        _, seen = model.capture(x.to(model.device), [conv, norm])
    a, b = (seen[name].transpose(0, 1).flatten(1).double() for name in (conv, norm))  # (C, N*H*W)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    residual = b - (a * b).sum(1, keepdim=True) / a.square().sum(1, keepdim=True).clamp_min(1e-12) * a
    return bool(residual.square().sum() <= 1e-6 * b.square().sum())


def _gain(checkpoint: Checkpoint, norm: str | None) -> npt.NDArray[np.float64] | float:
    """|gamma| / sqrt(variance + eps) per channel; eps 1e-5 is that of every common framework."""
    if norm is None:
        return 1.0
    variance = checkpoint.read(f"{norm}.running_var").astype(np.float64)
    scale = checkpoint.read(f"{norm}.weight").astype(np.float64) if f"{norm}.weight" in checkpoint.tensors else np.ones_like(variance)
    gain: npt.NDArray[np.float64] = np.abs(scale) / np.sqrt(variance + 1e-5)
    return gain


def _number(name: str) -> int:
    """The last number in a layer's name: ``layer1.0.bn2`` is 2."""
    found = re.findall(r"\d+", name.rpartition(".")[2])
    return int(found[-1]) if found else 0


def _natural(name: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
