"""An ONNX graph of several inputs made one of a single input: the others are computed inside it.

torch and onnxruntime then run the same graph, and whatever follows the batch or the length of the data does so by the graph's own
arithmetic on shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelguard import ModelError, Skip
from modelguard_runtime._onnx_model.head import new_prefix
from modelguard_runtime._onnx_model.roles import Fill, GraphInput, Roles

if TYPE_CHECKING:
    import numpy.typing as npt

INT64 = TensorProto.INT64
Size = int | tuple[int]
"""A dimension of what is filled in: a number, or the axis of the data whose size it has."""


def complete(model: onnx.ModelProto, roles: Roles, inputs: Sequence[GraphInput], pad: int | None) -> None:
    """Compute every input but the data inside the graph, in place; the data is then its only input."""
    maker = _Maker(model, roles, inputs)
    for info in inputs:
        if info.name in roles.fills:
            maker.fill(info, roles.fills[info.name], pad)
    kept = next(value for value in model.graph.input if value.name == roles.data.name)
    kept = onnx.ValueInfoProto.FromString(kept.SerializeToString())
    del model.graph.input[:]
    model.graph.input.append(kept)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*maker.nodes, *nodes])


class _Maker:
    """Writes the nodes that make inputs of the data."""

    def __init__(self, model: onnx.ModelProto, roles: Roles, inputs: Sequence[GraphInput]) -> None:
        self.data, self.nodes = roles.data, list[onnx.NodeProto]()
        given = [info.shape or () for info in inputs if info.name in roles.fills and roles.fills[info.name].what in ("state", "number")]
        # The length of what is given beside the data (the memory of a decoder, and its mask) is its own, and one where it is free.
        self._elsewhere = {dim for shape in given for dim in shape if isinstance(dim, str)} - set(roles.data.shape or ())
        self._initializers = model.graph.initializer
        self._opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self._prefix = new_prefix(model, "given")
        self._count = 0
        if not self._opset:
            self._opset = 17
            model.opset_import.append(helper.make_opsetid("", self._opset))

    def fill(self, info: GraphInput, fill: Fill, pad: int | None) -> None:
        """Make ``info`` of the data."""
        sizes = self._sizes(info, fill)
        match fill.what:
            case "mask" if info.rank == self.data.rank == 2 and pad is not None and self._opset >= 11 and self._tokens:
                self._as(info, self._tokens_before_padding(pad))
            case "mask":
                self._expand(info, np.ones(()), sizes)
            case "positions" if self._opset >= 11 and sizes and not isinstance(sizes[-1], int):
                numbers = [self._const(np.int64(0)), self._scalar(sizes[-1][0]), self._const(np.int64(1))]
                self._expand(info, self._node("Range", numbers), sizes)
            case "positions":
                length = sizes[-1] if sizes and isinstance(sizes[-1], int) else 1
                self._expand(info, np.arange(length), sizes)
            case "size":
                height, width = _spatial(self.data)
                parts = [self._axis(height), self._axis(width)]
                if sizes and sizes[-1] == 3:
                    parts.append(self._const(np.ones(1, np.int64)))
                self._expand(info, self._node("Concat", parts, axis=0), sizes)
            case "length":
                self._expand(info, self._axis(_time(self.data)), sizes)
            case "array" if fill.values is not None:
                self._expand(info, _fitting(info, fill.values, sizes), sizes)
            case _:
                self._expand(info, np.asarray(fill.value), sizes)

    @property
    def _tokens(self) -> bool:
        return self.data.element in (TensorProto.INT64, TensorProto.INT32)

    def _tokens_before_padding(self, pad: int) -> str:
        """Whether each token is text: there is one after it, or at it, that is not ``pad``; the first of a row always is."""
        ids, axis = self._data_as(INT64), self._const(np.int64(1))
        other = self._node("Cast", [self._node("Not", [self._node("Equal", [ids, self._const(np.int64(pad))])])], to=INT64)
        text = self._node("Greater", [self._node("CumSum", [other, axis], reverse=1), self._const(np.int64(0))])
        places = self._node("CumSum", [self._node("Cast", [self._node("Equal", [ids, ids])], to=INT64), axis])
        return self._node("Or", [text, self._node("Equal", [places, self._const(np.int64(1))])])

    def _sizes(self, info: GraphInput, fill: Fill) -> list[Size]:
        """What each dimension is: a number, or that of an axis of the data."""
        data = self.data.shape or ()
        shape = info.shape
        if shape is None:
            shape = data if fill.what in ("mask", "positions") else ()
        sizes: list[Size] = []
        batch_axis = _batch_axis(info, fill, data)
        for axis, dim in enumerate(shape):
            sized = dim if isinstance(dim, int) and dim > 0 else 0
            if axis == batch_axis and data and (not sized or dim == data[0]):
                sizes.append((0,))
            elif sized:
                sizes.append(sized)
            elif isinstance(dim, str) and dim in data[1:]:
                sizes.append((data.index(dim, 1),))
            elif dim in self._elsewhere and axis:
                sizes.append(1)
            elif fill.what == "past":
                sizes.append(0)
            elif fill.what in ("mask", "positions") and axis == len(shape) - 1 and len(data) > 1:
                sizes.append((len(data) - 1 if len(data) > 2 and len(shape) > 2 else 1,))
            elif fill.what == "mask" and len(shape) == 3 and len(data) == 4:
                sizes.append((_spatial(self.data)[axis - 1],))
            elif fill.what == "size" and axis == len(shape) - 1:
                sizes.append(2)
            else:
                sizes.append(1)
        return sizes

    def _expand(self, info: GraphInput, value: npt.NDArray[Any] | str, sizes: Sequence[Size]) -> None:
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) == len(sizes) and not isinstance(value, str):
            self._as(info, self._const(np.broadcast_to(value, known).copy()))
            return
        source = value if isinstance(value, str) else self._const(value)
        if not sizes:
            self._as(info, self._node("Reshape", [source, self._const(np.zeros(0, np.int64))]))
            return
        if self._opset < 8:
            raise Skip(f"the input {info} follows the batch, which operator set {self._opset} cannot express: export with 13 or later")
        parts = [self._const(np.array([size], np.int64)) if isinstance(size, int) else self._axis(size[0]) for size in sizes]
        self._as(info, self._node("Expand", [source, self._node("Concat", parts, axis=0)]))

    def _data_as(self, element: int) -> str:
        return self.data.name if self.data.element == element else self._node("Cast", [self.data.name], to=element)

    def _axis(self, axis: int) -> str:
        """The size of one axis of the data, as a tensor of one element."""
        shape = self.data.shape or ()
        if axis < len(shape) and axis > 0 and isinstance(shape[axis], int):
            return self._const(np.array([shape[axis]], np.int64))
        return self._node("Gather", [self._node("Shape", [self.data.name]), self._const(np.array([axis], np.int64))])

    def _scalar(self, axis: int) -> str:
        return self._node("Gather", [self._node("Shape", [self.data.name]), self._const(np.int64(axis))])

    def _const(self, value: npt.NDArray[Any] | np.generic) -> str:
        name = self._name()
        self._initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _as(self, info: GraphInput, name: str) -> None:
        """The tensor ``name`` in the element type of the input, under its name."""
        self.nodes.append(helper.make_node("Cast", [name], [info.name], to=info.element))

    def _node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = self._name()
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}.{self._count}"


def _batch_axis(info: GraphInput, fill: Fill, data: tuple[object, ...]) -> int | None:
    """The axis of an input that counts the batch, or None. A state has it second: (layers, batch, width); all else, first."""
    shape = info.shape or ()
    if not shape or not data:
        return None
    if isinstance(data[0], str) and data[0] in shape:
        return shape.index(data[0])
    named = next((axis for axis, dim in enumerate(shape) if isinstance(dim, str) and "batch" in dim.lower()), None)
    if named is not None:
        return named
    if fill.what == "state" and len(shape) == 3:
        return 1
    if len(shape) == 1 and fill.what in ("number", "array") and isinstance(shape[0], int):
        return 0 if shape[0] == data[0] else None
    return 0


def _spatial(data: GraphInput) -> tuple[int, int]:
    """The axes of an image's height and width."""
    if data.rank != 4 or data.shape is None:
        raise Skip(f"an input wants the size of an image, and {data} is none: say --input NAME=HEIGHT:WIDTH")
    return (1, 2) if data.shape[3] in (1, 3, 4) and data.shape[1] not in (1, 3, 4) else (2, 3)


def _time(data: GraphInput) -> int:
    """The axis of the data that counts steps of time."""
    if data.rank < 3 or data.shape is None:
        return min(1, max(0, data.rank - 1))
    free = [axis for axis in (1, 2) if not isinstance(data.shape[axis], int)]
    return free[-1] if free else 1


def _fitting(info: GraphInput, values: npt.NDArray[Any], sizes: Sequence[Size]) -> npt.NDArray[Any]:
    """What was given, in the rank of the input. Raises :class:`Skip` for rows that differ from sample to sample, and
    :class:`ModelError` where it does not fit."""
    shape = info.shape
    values = np.asarray(values)
    if shape is None or values.ndim == 0:
        return values
    known = [dim for dim in shape if isinstance(dim, int)]
    if values.ndim == 1 and len(shape) != 1 and len(known) == len(shape) and values.size == prod(known):
        return values.reshape(known)
    batch = sizes.index((0,)) if (0,) in sizes and values.ndim == len(shape) else None
    if batch is not None and values.shape[batch] > 1:
        first = values.take([0], batch)
        if not (values == first).all():
            raise Skip(f"the samples give the input {info} another value each, and a model is searched over one input: give one value")
        values = first
    for have, want in zip(reversed(values.shape), reversed(shape), strict=False):
        if isinstance(want, int) and want > 0 and have not in (1, want):
            raise ModelError(f"input {info}", f"is given values of shape {values.shape}", "give one number, or as many as it takes")
    if values.ndim > len(shape):
        raise ModelError(f"input {info}", f"is given values of shape {values.shape}", "give one number, or as many as it takes")
    return values
