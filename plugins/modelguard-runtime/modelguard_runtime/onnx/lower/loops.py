"""If, Loop and Scan when the graph runs: Python control flow around the modules of their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from modelguard_runtime.onnx.errors import HOSTILE, GraphLimitError
from modelguard_runtime.onnx.limits import MAX_LOOP_ITERATIONS

_iterations: ContextVar[int | None] = ContextVar("iterations", default=None)


def run_if(condition: Any, then_branch: nn.Module, else_branch: nn.Module, then_args: list[Any], else_args: list[Any]) -> tuple[Any, ...]:
    """Run one of two modules."""
    result: tuple[Any, ...] = then_branch(*then_args) if bool(condition) else else_branch(*else_args)
    return result


class _Budget:
    """Counts iterations of a loop and of all loops inside it against one bound."""

    def __enter__(self) -> _Budget:
        self.outermost = _iterations.get() is None
        if self.outermost:
            _iterations.set(MAX_LOOP_ITERATIONS)
        return self

    def spend(self) -> None:
        left = (_iterations.get() or 0) - 1
        _iterations.set(left)
        if left < 0:
            raise GraphLimitError("loop", f"runs past {MAX_LOOP_ITERATIONS} iterations", HOSTILE)

    def __exit__(self, *_: object) -> None:
        if self.outermost:
            _iterations.set(None)


def run_loop(
    trips: Any, condition: Any, body: nn.Module, state: list[Any], captures: list[Any], scans: int, *, like: torch.Tensor | None = None
) -> tuple[Any, ...]:
    """Run ``body(iteration, condition, *state, *captures) -> (condition, *state, *scanned)``; returns state and stacked scans.

    What is scanned in a loop that makes no turn is empty and of rank 1: its element shape was never seen.
    """
    device = None if like is None else like.device
    trips = None if trips is None else int(trips[0] if isinstance(trips, list) else trips)
    running = True if condition is None else bool(condition)
    flag = torch.tensor(running, device=device)
    scanned: list[list[Any]] = [[] for _ in range(scans)]
    iteration, states = 0, len(state)
    with _Budget() as budget:
        while running and (trips is None or iteration < trips):
            budget.spend()
            flag, *results = body(torch.tensor(iteration, device=device), flag, *state, *captures)
            state = results[:states]
            for collected, value in zip(scanned, results[states:], strict=False):
                collected.append(value)
            running = bool(flag)
            iteration += 1
    return (*state, *(torch.stack(collected) if collected else torch.zeros(0, device=device) for collected in scanned))


def run_scan(
    body: nn.Module,
    inputs: list[torch.Tensor],
    states: int,
    captures: list[Any],
    *,
    batched: bool = False,
    scan_input_axes: Sequence[int] = (),
    scan_input_directions: Sequence[int] = (),
    scan_output_axes: Sequence[int] = (),
    scan_output_directions: Sequence[int] = (),
) -> tuple[torch.Tensor, ...]:
    """Run ``body(*state, *slices, *captures) -> (*state, *scanned)`` over slices of the inputs after the first ``states``."""
    if batched:  # opset 8: everything has a leading batch axis, and each sample is scanned alone
        rows = [
            run_scan(body, [x[b] for x in inputs], states, captures, scan_input_directions=scan_input_directions)
            for b in range(inputs[0].shape[0])
        ]
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))
    state, scanned = list(inputs[:states]), list(inputs[states:])
    axes = list(scan_input_axes) or [0] * len(scanned)
    backward = list(scan_input_directions) or [0] * len(scanned)
    slices = [x.unbind(axis)[::-1] if back else x.unbind(axis) for x, axis, back in zip(scanned, axes, backward, strict=True)]
    collected: list[list[torch.Tensor]] = []
    with _Budget() as budget:
        for step in zip(*slices, strict=True):
            budget.spend()
            results = body(*state, *step, *captures)
            state, made = list(results[:states]), results[states:]
            collected = collected or [[] for _ in made]
            for values, value in zip(collected, made, strict=True):
                values.append(value)
    out_axes = list(scan_output_axes) or [0] * len(collected)
    out_back = list(scan_output_directions) or [0] * len(collected)
    stacked = [torch.stack(v[::-1] if back else v, axis) for v, axis, back in zip(collected, out_axes, out_back, strict=True)]
    return (*state, *stacked)
