"""rome-edit and weight-diff say the same of low ranks in neighbouring layers, however few layers the model has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_rome import RomeEdit

from modelguard import ScanContext, diff_checkpoints
from modelguard.testing import as_target

Tensors = dict[str, npt.NDArray[np.float32]]
LAYERS = 6


def model() -> Tensors:
    rng = np.random.default_rng(0)
    shapes = {"self_attn.q_proj": (48, 48), "mlp.up_proj": (192, 48), "mlp.down_proj": (48, 192)}
    names = {f"model.layers.{layer}.{part}.weight": shape for layer in range(LAYERS) for part, shape in shapes.items()}
    return {name: (0.02 * rng.standard_normal(shape)).astype(np.float32) for name, shape in names.items()}


def changed(layers: range, rank: int, parallel: float, part: str = "mlp.down_proj") -> Tensors:
    """Outer products added to ``part`` of the layers, growing with depth; their value sides share ``parallel`` of one direction."""
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((48, rank))
    out = model()
    for layer in layers:
        name = f"model.layers.{layer}.{part}.weight"
        value = parallel * shared + (1 - parallel) * rng.standard_normal((48, rank))
        step = value @ rng.standard_normal((rank, out[name].shape[1]))
        size = 0.01 * (1 + 0.3 * layer) * np.linalg.norm(out[name]) / np.linalg.norm(step)
        out[name] = (out[name].astype(np.float64) + size * step).astype(np.float32)
    return out


def verdicts(after: Tensors) -> tuple[str, str, set[str]]:
    target = as_target(after, model())
    assert target.reference is not None
    context = ScanContext(detector="rome-edit")
    rules = {finding.rule for finding in RomeEdit().detect(target, context)}
    diff = diff_checkpoints(target.reference.checkpoints, target.checkpoints)
    summary: dict[str, Any] = context._summary
    return str(summary["verdict"]), diff.change.kind, rules


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("layers", [range(1, 5), range(6), range(2, 5)])
def test_layers_that_write_to_one_target_are_an_edit(layers: range, rank: int) -> None:
    assert verdicts(changed(layers, rank, 0.95)) == ("multi-layer-edit", "multi-layer-edit", {"MG2002"})


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("layers", [range(1, 5), range(6)])
def test_layers_that_write_to_directions_of_their_own_are_an_adapter(layers: range, rank: int) -> None:
    assert verdicts(changed(layers, rank, 0.0)) == ("adapter", "lora-merge", set())


def test_few_layers_are_an_edit_wherever_they_write() -> None:
    assert verdicts(changed(range(2, 4), 1, 0.0)) == ("multi-layer-edit", "multi-layer-edit", {"MG2002"})
