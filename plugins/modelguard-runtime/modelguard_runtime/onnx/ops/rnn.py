"""Recurrent networks: torch's own kernels where they compute the same thing, a Python loop over time for everything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelguard_runtime.onnx.errors import GraphLimitError
from modelguard_runtime.onnx.limits import MAX_LOOP_ITERATIONS
from modelguard_runtime.onnx.ops.table import op

Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Inputs (N, I) and states (N, H) at one time to the states after it; the first of them is the output."""

Make = Callable[[int, Tensor, Tensor, Tensor, Tensor], Step]
"""The step of a direction, from its number, W, R and the two halves of B."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """torch's own; ``gates`` are ONNX's in torch's order."""

    run: Callable[..., tuple[Tensor, ...]]
    gates: tuple[int, ...]


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": lambda x, a, b: torch.tanh(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "relu": lambda x, a, b: torch.relu(x),
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, b: torch.nn.functional.leaky_relu(x, a),
    "thresholdedrelu": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "hardsigmoid": lambda x, a, b: (a * x + b).clamp(0, 1),
    "elu": lambda x, a, b: torch.nn.functional.elu(x, a),
    "softsign": lambda x, a, b: torch.nn.functional.softsign(x),
    "softplus": lambda x, a, b: torch.nn.functional.softplus(x),
}
_DEFAULTS = {
    "leakyrelu": (0.01, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
}


def _activations(names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None) -> list[Callable[[Tensor], Tensor]]:
    """The activation functions; alphas and betas are consumed by those that take one, in order."""
    alpha, beta = list(alphas or ()), list(betas or ())
    functions: list[Callable[[Tensor], Tensor]] = []
    for name in (n.lower() for n in names):
        a, b = _DEFAULTS.get(name, (1.0, 0.0))
        if name in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu") and alpha:
            a = alpha.pop(0)
        if name in ("affine", "scaledtanh", "hardsigmoid") and beta:
            b = beta.pop(0)
        functions.append(functools.partial(_ACTIVATIONS[name], a=a, b=b))
    return functions


def _run(x: Tensor, states: tuple[Tensor, ...], lengths: Tensor | None, backward: bool, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction over (T, N, I). Past a sample's length its state stays and its output is 0."""
    if x.shape[0] > MAX_LOOP_ITERATIONS:
        raise GraphLimitError("recurrent operator", f"runs over {x.shape[0]} steps where {MAX_LOOP_ITERATIONS} are allowed")
    made: list[Tensor] = [x] * x.shape[0]
    for t in range(x.shape[0] - 1, -1, -1) if backward else range(x.shape[0]):
        after = step(x[t], states)
        made[t] = after[0]
        if lengths is not None:
            alive = (t < lengths).reshape(-1, 1)
            made[t] = torch.where(alive, after[0], torch.zeros_like(after[0]))
            after = tuple(torch.where(alive, new, old) for new, old in zip(after, states, strict=True))
        states = after
    return torch.stack(made), states  # (T, N, H)


def _unroll(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, initial: Sequence[Tensor | None], direction: str, make: Make
) -> tuple[Tensor, ...]:
    """All directions: Y (T, D, N, H) and the last states, (D, N, H) each."""
    gates, hidden = r.shape[1:]
    outputs, lasts = [], []
    for d in range(w.shape[0]):
        states = tuple(x.new_zeros(x.shape[1], hidden) if s is None else s[d].expand(x.shape[1], -1) for s in initial)
        wb, rb = (x.new_zeros(gates), x.new_zeros(gates)) if b is None else (b[d, :gates], b[d, gates:])
        y, last = _run(x, states, lengths, direction == "reverse" or d == 1, make(d, w[d], r[d], wb, rb))
        outputs.append(y)
        lasts.append(last)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _native(
    kernel: Kernel, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, initial: Sequence[Tensor | None], direction: str
) -> tuple[Tensor, ...] | None:
    """What :func:`_unroll` returns, by torch's kernel. None where torch cannot run it (under a function transform)."""
    directions, hidden = w.shape[0], r.shape[2]
    _check(x, w, r, b, direction, len(kernel.gates))

    def gates(t: Tensor) -> Tensor:
        return t if list(kernel.gates) == sorted(kernel.gates) else torch.cat([t.narrow(0, g * hidden, hidden) for g in kernel.gates])

    parameters = []
    for d in range(directions):
        parameters += [gates(w[d]), gates(r[d])]
        if b is not None:
            half = r.shape[1]
            parameters += [gates(b[d, :half]), gates(b[d, half:])]
    states = tuple(_state(s, x, directions, hidden) for s in initial)
    flipped = x.flip(0) if direction == "reverse" else x
    try:
        result = kernel.run(
            flipped, states if len(states) > 1 else states[0], parameters, b is not None, 1, 0.0, False, direction == "bidirectional", False
        )
    except (RuntimeError, NotImplementedError):
        return None
    y = result[0]  # (T, N, D * H)
    y = y.flip(0) if direction == "reverse" else y
    y = y.reshape(y.shape[0], y.shape[1], directions, hidden).transpose(1, 2)
    return (y, *result[1:])


def _check(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, direction: str, gates: int) -> None:
    """Raises ``ValueError`` for weights of other sizes than x (T, N, I) needs: oneDNN's kernel believes them, and reads past their end."""
    directions, hidden = 1 + (direction == "bidirectional"), r.shape[-1]
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "W": (w, (directions, gates * hidden, x.shape[-1])),
        "R": (r, (directions, gates * hidden, hidden)),
    }
    if b is not None:
        wanted["B"] = (b, (directions, 2 * gates * hidden))
    for name, (given, shape) in wanted.items():
        if tuple(given.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(given.shape)} where {shape} is needed")


def _state(initial: Tensor | None, x: Tensor, directions: int, hidden: int) -> Tensor:
    """The initial state (D, N, H); one baked for a batch of one serves every batch."""
    if initial is None:
        return x.new_zeros(directions, x.shape[1], hidden)
    return initial.expand(directions, x.shape[1], hidden).contiguous()


def _recurrent(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, initial: Sequence[Tensor | None],
    kernel: Kernel | None, make: Make, direction: str, layout: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Y (T, D, N, H) and the last states (D, N, H), batch first with ``layout``, as x and the initial states are then; by torch's
    ``kernel`` where there is one that computes the same thing, else by the steps that ``make`` makes."""
    if layout:
        x, initial = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in initial]
    result = _native(kernel, x, w, r, b, initial, direction) if kernel is not None and lengths is None else None
    y, *states = _unroll(x, w, r, b, lengths, initial, direction, make) if result is None else result
    if not layout:
        return (y, *states)
    return (y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states))


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


@op("RNN", since=7)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Y (T, D, N, H) and the last state (D, N, H); batch first with ``layout``."""
    names = [n.lower() for n in activations or ["tanh"] * w.shape[0]]
    kernel = None
    if clip is None and len(set(names)) == 1 and names[0] in ("tanh", "relu"):
        kernel = Kernel(torch._VF.rnn_tanh if names[0] == "tanh" else torch._VF.rnn_relu, (0,))

    def make(d: int, wd: Tensor, rd: Tensor, wb: Tensor, rb: Tensor) -> Step:
        function = _activations(names, activation_alpha, activation_beta)[d]

        def step(x_t: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (function(_clipped(x_t @ wd.t() + states[0] @ rd.t() + wb + rb, clip)),)

        return step

    return _recurrent(x, w, r, b, sequence_lens, [initial_h], kernel, make, direction, layout)


@op("LSTM", since=7)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in ONNX order: input, output, forget, cell; ``p`` are the peepholes of the first three."""
    usual = ["sigmoid", "tanh", "tanh"] * w.shape[0]
    names = [n.lower() for n in activations or usual]
    native = clip is None and p is None and not input_forget and names == usual

    def make(d: int, wd: Tensor, rd: Tensor, wb: Tensor, rb: Tensor) -> Step:
        f, g, h = _activations(names, activation_alpha, activation_beta)[3 * d : 3 * d + 3]
        hidden = rd.shape[1]
        pi, po, pf = x.new_zeros(3, hidden) if p is None else p[d].reshape(3, hidden)

        def step(x_t: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            before, cell = states
            i, o, forget, c = (x_t @ wd.t() + before @ rd.t() + wb + rb).chunk(4, 1)
            i = f(_clipped(i + pi * cell, clip))
            forget = 1 - i if input_forget else f(_clipped(forget + pf * cell, clip))
            cell = forget * cell + i * g(_clipped(c, clip))
            return f(_clipped(o + po * cell, clip)) * h(cell), cell

        return step

    kernel = Kernel(torch._VF.lstm, (0, 2, 3, 1)) if native else None
    return _recurrent(x, w, r, b, sequence_lens, [initial_h, initial_c], kernel, make, direction, layout)


@op("GRU", since=7)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in ONNX order: update, reset, hidden. torch's own applies the reset after the recurrent product."""
    usual = ["sigmoid", "tanh"] * w.shape[0]
    names = [n.lower() for n in activations or usual]

    def make(d: int, wd: Tensor, rd: Tensor, wb: Tensor, rb: Tensor) -> Step:
        f, g = _activations(names, activation_alpha, activation_beta)[2 * d : 2 * d + 2]
        rz, rr, rh = rd.chunk(3)
        bz, br, bh = rb.chunk(3)

        def step(x_t: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (before,) = states
            z, reset, h = (x_t @ wd.t() + wb).chunk(3, 1)
            z = f(_clipped(z + before @ rz.t() + bz, clip))
            reset = f(_clipped(reset + before @ rr.t() + br, clip))
            recurrent = reset * (before @ rh.t() + bh) if linear_before_reset else (reset * before) @ rh.t() + bh
            return ((1 - z) * g(_clipped(h + recurrent, clip)) + z * before,)

        return step

    kernel = Kernel(torch._VF.gru, (1, 0, 2)) if clip is None and linear_before_reset and names == usual else None
    return _recurrent(x, w, r, b, sequence_lens, [initial_h], kernel, make, direction, layout)
