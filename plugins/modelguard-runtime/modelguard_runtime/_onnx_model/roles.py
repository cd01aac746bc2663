"""Which input of an ONNX graph samples go to, and what each of the others is given. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import onnx
from onnx import TensorProto

from modelguard import Skip, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

Dim = int | str | None
What = Literal["number", "array", "mask", "positions", "size", "length", "past", "state", "start"]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
INTS = (TensorProto.INT64, TensorProto.INT32)
NUMBERS = (*FLOATS, *INTS, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)
LONGEST = 200
"""Characters of a name that are looked at."""
SHOWN = 6
"""Inputs that a message lists; of more it says how many there are."""


@dataclass(frozen=True, slots=True)
class GraphInput:
    """A graph input as declared; ``element`` is its ONNX element type (0: no tensor), ``shape`` None when not even the rank is said."""

    name: str
    element: int
    shape: tuple[Dim, ...] | None

    @property
    def rank(self) -> int:
        """Dimensions, -1 when they are not known."""
        return -1 if self.shape is None else len(self.shape)

    def __str__(self) -> str:
        kind = TensorProto.DataType.Name(self.element).lower() if self.element else "no tensor"
        shape = "of unknown shape" if self.shape is None else "x".join("?" if d is None else str(d)[:24] for d in self.shape) or "scalar"
        return f"{self.name[:60]!r} ({kind} {shape})"


@dataclass(frozen=True, slots=True)
class Fill:
    """What an input beside the data is given.

    ``number``: ``value`` everywhere. ``array``: ``values``. ``mask``: 1, and 0 at padding. ``positions``: 0, 1, 2 ... ``size``: height and
    width of the image. ``length``: of the data, along time. ``past``: nothing, zero tokens long where that is free. ``state``: zeros, one
    row an input. ``start``: one token, 0.
    """

    what: What
    value: float = 0.0
    values: npt.NDArray[Any] | None = None
    said: str = "its name"


@dataclass(frozen=True, slots=True)
class Roles:
    """The input samples go to, and what the others get, by name."""

    data: GraphInput
    fills: Mapping[str, Fill]


def graph_inputs(model: onnx.ModelProto) -> tuple[GraphInput, ...]:
    """The inputs that are given when the graph runs: initializers that are declared as inputs are not."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(declared(info) for info in model.graph.input if info.name not in stored)


def declared(info: onnx.ValueInfoProto) -> GraphInput:
    """A graph input or output as it is declared."""
    tensor = info.type.tensor_type
    shape: tuple[Dim, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
    return GraphInput(info.name, tensor.elem_type, shape)


DATA = re.compile(
    r"^(input_ids|tokens?|token_ids|src(_tokens)?|pixel_values|input_values|input_features|images?|img|inputs?(_?\d+)?|x|data|audio(_signal)?"
    r"|wave(form)?s?|speech|feat(ure)?s?|bytes|samples?|texts?|sentence|input_tensor|float_input|sample)$"
)
"""Names exporters give the input that is data."""

_FILLS: Sequence[tuple[str, tuple[int, ...], range, Fill]] = (
    (r"use_cache|training|^phase$|has_mask", (TensorProto.BOOL, *NUMBERS), range(2), Fill("number", 0.0)),
    (r"past|^(k|v|kv|key|value)?_?cache", FLOATS, range(2, 7), Fill("past")),
    (r"padding_?mask", NUMBERS, range(1, 4), Fill("number", 0.0)),
    (r"mask", NUMBERS, range(1, 4), Fill("mask")),
    (r"token_type|segment|type_ids", INTS, range(1, 3), Fill("number", 0.0)),
    (r"position(_?ids)?s?$|^pos(_?ids)?$", INTS, range(1, 3), Fill("positions")),
    (r"decoder_input_ids|^tgt(_tokens)?$", INTS, range(1, 3), Fill("start")),
    (
        r"(^|_)([hc]\d?|[hc][0n]|[hc]_?in|hidden|cell|hx|cx|mems?|memory|initial|init|rnn|lstm|gru)(_|\d|$)|state",
        FLOATS, range(1, 6), Fill("state"),
    ),
    (r"^(sr|fs)$|sampl(e|ing)_?rate", NUMBERS, range(2), Fill("number", 16000.0)),
    (r"scale_?factor|^(ratio|scales?)$|speed|length_?scale|temperature|keep_prob|^gain", FLOATS, range(3), Fill("number", 1.0)),
    (
        r"im(g|age)?_?(shape|size|info)|orig\w*_?sizes?|target_?sizes?|input_?(size|shape)|^(shape|size)$",
        NUMBERS, range(1, 3), Fill("size"),
    ),
    (r"(^|_)len(gth)?s?(_|\d|$)|lengths?$", INTS, range(2), Fill("length")),
    (r"speaker|^spk|^sid$|lang(uage)?(_?id)?s?$|^lid$|voice|seed|time_?steps?", NUMBERS, range(3), Fill("number", 0.0)),
    (r"noise", FLOATS, range(5), Fill("number", 0.0)),
    (r"iou", FLOATS, range(2), Fill("number", 0.5)),
    (r"thresh|score_?thr|conf", FLOATS, range(2), Fill("number", 0.25)),
    (r"max_?\w*(box|det|out|num)|top_?k", INTS, range(2), Fill("number", 100.0)),
)  # fmt: skip
"""Natural constants, the first that fits: a pattern of the name, element types, ranks, and what is given."""


def assign(
    inputs: Sequence[GraphInput],
    outputs: Sequence[GraphInput] = (),
    *,
    data: str | None = None,
    numbers: Mapping[str, Sequence[float]] | None = None,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Roles:
    """The roles of ``inputs``, decided by name, element type and shape; ``outputs`` tell a state, which comes out as it went in.

    ``data`` is the name the user gives the input that samples go to, ``numbers`` what he gives others; ``arrays`` come with the samples.
    Raises :class:`~modelguard.Skip` naming what is unclear and how to state it, and :class:`~modelguard.UsageError` for a name that is
    no input.
    """
    import numpy as np

    names = {info.name for info in inputs}
    for name in (*([data] if data is not None else []), *(numbers or {})):
        if name not in names:
            raise UsageError(f"--input {name}", "the graph has no such input", f"its inputs are {listed(inputs)}")
    if not inputs:
        raise Skip("the output does not depend on any input of the graph")
    fills: dict[str, Fill] = {}
    for info in inputs:
        if info.name == data or len(inputs) == 1:
            continue
        if numbers and info.name in numbers:
            fills[info.name] = Fill("array", values=np.asarray(numbers[info.name]), said="--input")
        elif arrays and info.name in arrays:
            fills[info.name] = Fill("array", values=arrays[info.name], said="the samples")
        elif (natural := _natural(info, outputs)) is not None:
            fills[info.name] = natural
    left = [info for info in inputs if info.name not in fills]
    if data is not None:
        chosen = next(info for info in inputs if info.name == data)
    elif len(left) == 1:
        chosen = left[0]
    else:
        known = [info for info in left or inputs if DATA.match(_plain(info.name))]
        if len(known) != 1 or not left:
            raise Skip(
                f"the graph has {len(inputs)} inputs, and nothing says which of {listed(left or inputs)} samples go to: "
                "say --input data=NAME, and NAME=NUMBER for each other"
            )
        chosen = known[0]
    unclear = [info for info in left if info is not chosen]
    if unclear:
        raise Skip(
            f"samples go to the input {chosen}, and nothing says what {listed(unclear)} {'is' if len(unclear) == 1 else 'are'} given: "
            f"say --input {unclear[0].name[:60]}=NUMBER, or give samples with an array of that name"
        )
    if chosen.element not in NUMBERS or chosen.element in (TensorProto.BFLOAT16, TensorProto.BOOL):
        raise Skip(f"the input {chosen} takes no numbers that samples have: export it with a float32 input")
    return Roles(chosen, fills)


def listed(inputs: Sequence[GraphInput]) -> str:
    """The inputs, all of them or with the count of those left out."""
    shown = ", ".join(map(str, inputs[:SHOWN]))
    return shown if len(inputs) <= SHOWN else f"{shown} and {len(inputs) - SHOWN} more"


def _plain(name: str) -> str:
    """A name without what exporters put around it."""
    return re.sub(r"^(serving_default_|onnx::|model/|main_)|:\d+$", "", name.lower()[:LONGEST])


def _natural(info: GraphInput, outputs: Sequence[GraphInput]) -> Fill | None:
    name = _plain(info.name)
    if DATA.match(name):
        return None
    for pattern, elements, ranks, fill in _FILLS:
        if info.element in elements and (info.rank in ranks or info.rank < 0) and re.search(pattern, name):
            return fill
    return Fill("state", said="an output of the same shape and name") if is_state(info, outputs) else None


def is_state(info: GraphInput, outputs: Sequence[GraphInput]) -> bool:
    """Whether an output carries the input on to the next call: of its element type and rank, with its name inside its own."""
    stem = re.sub(r"_?(in|input|prev|old)$|^(in|input|prev|old)_", "", _plain(info.name))
    return info.element in FLOATS and any(
        out.element == info.element and out.rank == info.rank and stem and stem in _plain(out.name) and _fits(info.shape, out.shape)
        for out in outputs
    )


def _fits(a: tuple[Dim, ...] | None, b: tuple[Dim, ...] | None) -> bool:
    return a is not None and b is not None and all(x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int))
