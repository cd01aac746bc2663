"""The weights of a model that can be changed and written back: those that are, unchanged, tensors of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modelguard import Skip

if TYPE_CHECKING:
    from modelguard_runtime import TorchModel

    from modelguard import Checkpoint, InputSpec, TensorInfo

STORED = ("F32", "F64", "F16", "BF16")
"""What a weight may be stored in: what is computed is rounded to it."""
MOST = 0.5
"""Share of the checkpoint's numbers that has to be trainable: of a quantised model only scales and biases are, and what they can do is no
repair."""
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """``tensors`` are parameters of ``model`` by the name of the checkpoint's tensor that each is; they may be written to, in place.

    ``model`` runs in evaluation mode all the time: a BatchNorm keeps its statistics.
    """

    model: TorchModel
    checkpoint: Checkpoint
    tensors: Mapping[str, nn.Parameter]

    @classmethod
    def of(cls, model: TorchModel, checkpoint: Checkpoint) -> Weights:
        """The weights of ``model``, which was built from ``checkpoint``. Raises :class:`~modelguard.Skip` where most of them cannot be
        written back."""
        found = {
            name: parameter
            for name, parameter in model.weights.items()
            if (info := checkpoint.tensors.get(name)) is not None
            and _writable(info, checkpoint)
            and not _normalises_pixels(parameter, model.input)
            and _same(parameter, checkpoint.read(name))
        }
        every = sum(info.size for info in checkpoint.tensors.values() if info.dtype not in ("I64", "I32", "BOOL"))
        if sum(parameter.numel() for parameter in found.values()) < MOST * every:
            raise Skip(
                f"most weights of {checkpoint.name} are quantised, or not stored as they are computed with, and cannot be trained: "
                "repair the model in float32, and convert the result"
            )
        for parameter in found.values():
            parameter.data = parameter.data.clone()  # it may lie in a file that is mapped
        return cls(model, checkpoint, found)

    def state(self) -> State:
        """The weights as they are now."""
        return {name: parameter.detach().clone() for name, parameter in self.tensors.items()}

    def restore(self, state: State) -> None:
        """Make them what :meth:`state` gave."""
        with torch.no_grad():
            for name, parameter in self.tensors.items():
                parameter.copy_(state[name])

    @contextmanager
    def trainable(self) -> Iterator[list[nn.Parameter]]:
        """While active, gradients go to the weights."""
        found = list(self.tensors.values())
        for parameter in found:
            parameter.requires_grad_(True)
        try:
            yield found
        finally:
            for parameter in found:
                parameter.requires_grad_(False)
                parameter.grad = None

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The weights, by name, as float32 or float64 arrays."""
        return {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.tensors.items()}


def _writable(info: TensorInfo, checkpoint: Checkpoint) -> bool:
    if info.dtype not in STORED or checkpoint.quantization(info.name) is not None:
        return False
    # A graph is changed in place, byte by byte; weights alone are written anew.
    return info.byte_offset is not None or checkpoint.format != "onnx"


def _normalises_pixels(parameter: nn.Parameter, spec: InputSpec) -> bool:
    """Whether it has the shape of a mean or standard deviation by channel, inside the graph: (1, C, 1, 1)."""
    if spec.kind != "image":
        return False
    return parameter.numel() <= max(1, spec.shape[0]) and parameter.ndim >= 3


def _same(parameter: nn.Parameter, stored: npt.NDArray[Any]) -> bool:
    """Whether a parameter in single precision or better holds what is stored."""
    if parameter.dtype not in (torch.float32, torch.float64) or tuple(parameter.shape) != stored.shape:
        return False
    return bool(np.array_equal(parameter.detach().cpu().numpy(), stored.astype(np.float64), equal_nan=True))
