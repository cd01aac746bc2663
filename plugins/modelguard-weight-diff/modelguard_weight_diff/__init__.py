"""What exactly was done to these weights: a streaming, classifying diff of model checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_weight_diff.diff import ModelDiff, TensorDiff, diff_checkpoints
    from modelguard_weight_diff.replay import Replay, replay_rank
    from modelguard_weight_diff.view import render

__all__ = ["ModelDiff", "Replay", "TensorDiff", "diff_checkpoints", "render", "replay_rank"]

_HOME = {
    "ModelDiff": "diff",
    "TensorDiff": "diff",
    "diff_checkpoints": "diff",
    "Replay": "replay",
    "replay_rank": "replay",
    "render": "view",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
