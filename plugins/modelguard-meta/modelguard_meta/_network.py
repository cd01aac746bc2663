"""A network as a function of its weights, and many sets of weights at once.

The network is that of a given checkpoint, so shadow models have its very graph. Its weights are only where theirs begin: the entries of
each tensor are shuffled, which forgets what the model has learnt and keeps a scale that its layers work with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap

from modelguard import ModelguardError, UsageError

if TYPE_CHECKING:
    from modelguard_runtime import TorchModel

Weights = dict[str, Tensor]
"""Tensors (M, ...) of M models, by the names of the network's parameters."""

MATRIX = 2
"""Dimensions larger than one from which a tensor is a weight, and no bias, scale or constant."""


class _Whole(nn.Module):
    """A model from raw images to logits as one module, whose parameters can be given to it."""

    def __init__(self, model: TorchModel) -> None:
        super().__init__()
        self.network = model.module
        self._run = model.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)


class Network:
    """``model`` with its weights taken out. Raises :class:`UsageError` where it has none that could be trained."""

    def __init__(self, model: TorchModel) -> None:
        self._whole = _Whole(model)
        module, kept = model.module, _before_first_weight(model.module)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        statistics = {name: value for name, value in _running_statistics(module) if name in tensors}
        # Without running statistics to follow, a batch norm is an affine layer: mean 0, variance 1.
        self._fixed: Weights = {f"network.{name}": torch.full_like(tensors[name], value) for name, value in statistics.items()}
        self.given: Weights = {
            f"network.{name}": value.detach()
            for name, value in module.named_parameters()
            if name not in statistics
            and name not in kept
            and value.is_floating_point()
            and value.numel() > 1
            and bool(value.isfinite().all())
        }
        """Each trained tensor as the checkpoint has it, without the first dimension of :data:`Weights`."""
        if not any(_extents(value) >= MATRIX for value in self.given.values()):
            raise UsageError("--architecture", "has no weights that could be trained", "give a model of dense layers or convolutions")
        self._vectorised = self._can_vectorise(model)

    def _can_vectorise(self, model: TorchModel) -> bool:
        """Whether torch runs several sets of weights as one: not where an operator asks for values, or writes in place."""
        weights = self.fresh(2, torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                vmap(self._one, in_dims=(0, None))(weights, torch.full((2, *model.input.shape), model.input.low))
        except (ModelguardError, RuntimeError):
            return False
        return True

    def fresh(self, count: int, generator: torch.Generator) -> Weights:
        """Weights of ``count`` models that have learnt nothing: the entries of every tensor in an order of their own.

        Weights shuffled within each layer are a control of Frankle, Schwab and Morcos, "The Early Phase of Neural Network Training", ICLR
        2020: their distribution stays, and what was learnt goes.
        """
        made = {}
        for name, value in self.given.items():
            order = torch.rand((count, value.numel()), generator=generator).argsort(1)  # (M, size)
            made[name] = value.flatten()[order].reshape(count, *value.shape)
        return made

    def logits(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(M, B, K) of M sets of weights: on images of their own, ``x`` (M, B, C, H, W), or on shared ones, ``x`` (B, C, H, W)."""
        own = x.ndim == len(("models", "images", "channels", "rows", "columns"))
        if self._vectorised:
            stacked: Tensor = vmap(self._one, in_dims=(0, 0 if own else None))(dict(weights), x)
            return stacked
        count = len(next(iter(weights.values())))
        return torch.stack([self._one({name: value[i] for name, value in weights.items()}, x[i] if own else x) for i in range(count)])

    def _one(self, weights: Weights, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._whole, {**self._fixed, **weights}, (x,))
        return logits


def _extents(value: Tensor) -> int:
    return sum(size > 1 for size in value.shape)


def _taken(node: fx.Node) -> Iterator[tuple[int, str]]:
    """The tensors of its module that a node of a graph takes, each with the place of the argument."""
    for place, argument in enumerate(node.args):
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            yield place, str(argument.target)


def _before_first_weight(module: nn.Module) -> set[str]:
    """Tensors of a graph that are used before its first weight: constants that prepare the input, which stay as they are."""
    found: set[str] = set()
    if isinstance(module, fx.GraphModule):
        parameters = dict(module.named_parameters())
        for node in module.graph.nodes:
            names = [name for _, name in _taken(node) if name in parameters]
            if any(_extents(parameters[name]) >= MATRIX for name in names):
                break
            found.update(names)
    return found


def _running_statistics(module: nn.Module) -> Iterator[tuple[str, float]]:
    """The running means and variances of batch norms, each with what stands in for it."""
    for name, _ in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            yield name, 1.0 if name.endswith("var") else 0.0
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            if node.meta.get("op_type") == "BatchNormalization":
                yield from ((name, float(place == 4)) for place, name in _taken(node) if place in (3, 4))  # x, scale, bias, mean, variance
