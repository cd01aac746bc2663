"""Running a torch module from its own input to its own output, with named places to capture, patch and cut.

Two engines do the same five things: :class:`~modelguard_runtime._engines.graph.GraphEngine` for a ``torch.fx.GraphModule`` (what an
ONNX file becomes), by rewriting the graph; :class:`~modelguard_runtime._engines.module.ModuleEngine` for any other ``nn.Module``, with
forward hooks. Both work in the domain of the graph itself; :class:`~modelguard_runtime._torch_model.TorchModel` adds the raw input
domain and the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelguard import Layer, ModelError

Tensor = torch.Tensor
Edit = Callable[[Tensor], Tensor]
Blank = Callable[[int, Tensor | None, int], Tensor]
Cut = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

PROBES = 3
"""Batch size of the run that finds the layers: a size that few inner dimensions have, so that a batch axis can be told."""


class Engine(ABC):
    """A frozen module behind one signature: graph input tensor -> graph output tensor.

    ``blank(n, activation, seed)`` makes a random graph input of batch size ``n``: to probe with, and for the parts of a back half
    that ask for the input's shape (``activation`` tells its free dimensions).
    """

    blank: Blank
    module: nn.Module
    layers: tuple[Layer, ...]
    table: str | None = None
    """The layer that looks token ids up, where there is one and it can be told."""

    @abstractmethod
    def run(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...

    @abstractmethod
    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor: ...

    @abstractmethod
    def split(self, name: str) -> Cut: ...

    @abstractmethod
    def rows(self) -> Tensor:
        """What :attr:`table` gives for each token id, (V, D)."""

    def move(self, device: torch.device) -> None:
        """Move the module, in place."""
        self.module.to(device)

    def require(self, names: Sequence[str]) -> None:
        """Raise :class:`ModelError` naming the first of ``names`` that is not a layer."""
        known = {layer.name for layer in self.layers}
        for name in names:
            if name not in known:
                raise ModelError(f"layer {name}", "the model has no such layer", "see `modelguard model` for the layers it has")

    def check_cut(self, name: str, front: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Raise :class:`ModelError` unless ``back`` depends on the input only through the activation at ``name``.

        With the activation held, two different inputs must give the same output: a path around the layer would show.
        """
        with torch.no_grad():
            first, second = self.blank(2, None, 0), self.blank(2, None, 1)
            activation = front(first)
            held, other, whole = back(activation, first), back(activation, second), self.run(first)
        if not torch.allclose(held, other, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ModelError(f"layer {name}", "is not a cut: another path leads around it", "cut at the end of its block instead")
        if not torch.allclose(held, whole, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ModelError(f"layer {name}", "the two halves do not make the whole", "cut at another layer")


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode (batch-norm uses its running statistics) and no gradients for parameters."""
    return module.eval().requires_grad_(False)


def first_tensor(output: Any) -> Tensor | None:
    """A module's main output: itself, or the first tensor of a tuple or of a transformers model output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)) and output:
        return first_tensor(output[0])
    return None


def single(output: Any) -> Tensor:
    value = first_tensor(output)
    if value is None:
        raise ModelError("model", f"returns {type(output).__name__}, not a tensor", "wrap it so that it returns its logits")
    return value
