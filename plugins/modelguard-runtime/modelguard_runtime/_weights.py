"""The tensors of a checkpoint as torch tensors, and their strict fit into a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from modelguard import Checkpoint, ModelError
from modelguard_runtime._graph_errors import graph_errors
from modelguard_runtime.onnx import from_numpy

BENIGN = ("num_batches_tracked",)
"""Buffers that older torch versions did not save, and that an evaluation does not read."""


def state_dict(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor by name, memory-mapped where the checkpoint is: not to be written to."""
    with graph_errors():
        return {name: from_numpy(checkpoint.read(name), f"tensor {name[:80]!r}") for name in checkpoint.tensors}


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's tensors into ``module``, by name.

    Raises :class:`ModelError` naming the tensors that are missing, unexpected or misshapen: a model that runs with other weights is not
    the one that is looked at.
    """
    fit(module, state_dict(checkpoint), type(module).__name__)


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Copy ``state`` into ``module``. Raises :class:`ModelError` naming missing, unexpected and misshapen tensors."""
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(BENIGN)]
    unexpected = [name for name in state if name not in own]
    refuse_misfit(what, missing, unexpected, misshapen(own, state))
    module.load_state_dict(dict(state), strict=False)


def misshapen(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """What is said of each tensor of ``state`` that a module has, as ``own``, in another shape."""
    differing = (name for name in own if name in state and state[name].shape != own[name].shape)
    return [f"{name} is {_shape(state[name])} instead of {_shape(own[name])}" for name in differing]


def refuse_misfit(what: str, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str]) -> None:
    """Raise :class:`ModelError` when any tensor does not fit: a model that runs with other weights is not the one being scanned."""
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    told = [f"{len(names)} {word} ({_few(names)})" for word, group in groups.items() if (names := sorted(group))]
    if told:
        raise ModelError(
            what, f"does not fit the checkpoint's tensors: {', '.join(told)}", "it must be the very architecture of the checkpoint"
        )


def _few(names: list[str]) -> str:
    return ", ".join(name[:80] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def input_shape(module: nn.Module) -> tuple[int, ...] | None:
    """What the first layer says of the input: (F,) for a linear layer, (C, -1, -1) for a convolution, None for anything else."""
    first = _first(module)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    return (first.in_channels, -1, -1) if isinstance(first, nn.Conv2d) else None


def token_table(module: nn.Module) -> int | None:
    """The tokens that a module takes whose first layer looks them up, or None."""
    first = _first(module)
    return int(first.num_embeddings) if isinstance(first, nn.Embedding) else None


def _first(module: nn.Module) -> Any:
    """The first part of a module that has parameters of its own, or None."""
    return next((part for part in module.modules() if next(part.parameters(recurse=False), None) is not None), None)
