"""What running a graph once shows: which sizes it takes where it leaves them free, and where the batch is in what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modelguard import InputSpec, ModelError, Skip
from modelguard_runtime._domain import Domain
from modelguard_runtime._failures import one_line, raise_if_out_of_memory
from modelguard_runtime._onnx_model.head import pool, unsqueeze
from modelguard_runtime._onnx_model.inputs import batch_first
from modelguard_runtime._onnx_model.sizes import shapes

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard_runtime._onnx_model.file import OnnxFile
    from modelguard_runtime._onnx_model.take import Taken

Run = Callable[["npt.NDArray[Any]"], "npt.NDArray[Any]"]
"""A graph input array to a graph output array."""
PROBED = 5
"""Inputs of the run that shows the batch: as many as few other axes have elements."""


class Graph(Protocol):
    """What is settled: ``input``, and the graph of ``file``."""

    input: InputSpec

    @property
    def taken(self) -> Taken: ...

    @property
    def file(self) -> OnnxFile: ...

    def domain(self, spec: InputSpec) -> Domain: ...


@dataclass(frozen=True, slots=True)
class Settled:
    """``values`` (N, ...) of random inputs of ``size``, the batch first; ``batch`` the number of inputs taken at once, None for any;
    ``edited`` says that the graph was, and has to be read again."""

    values: npt.NDArray[Any]
    size: tuple[int, ...]
    batch: int | None
    edited: bool


def settle(graph: Graph, run: Run, fixed: int | None) -> Settled:
    """Find sizes that the graph runs on, and bring the batch to the front of what it returns; both in place.

    ``run`` takes ``fixed`` inputs at once, any number where that is None. Raises :class:`ModelError` where nothing runs,
    :class:`~modelguard.Skip` where it leaves sizes free and runs on no usual one, or where the batch is nowhere.
    """
    count = fixed or PROBED
    graph.input, values, batch = _first_that_runs(graph, run, count, fixed)
    size = tuple(graph.domain(graph.input).sizes())
    axis = _batch_axis(values, batch or count)
    if axis == 0 and batch is None and np.asarray(run(_blank(graph, graph.input, 1))).ndim < values.ndim:
        batch, values = 2, values[:2]  # a Squeeze of every axis of size one takes the batch off a single input
    if axis is None and batch is None:
        batch, values = 1, run(_blank(graph, graph.input, 1))  # it pretends to be free
        axis = _batch_axis(values, 1)
    model, pooling = graph.file.model, graph.taken.head.pooling
    if axis is None:
        if batch != 1:
            raise Skip(f"the output has shape {values.shape} for {batch} inputs: nothing shows which part belongs to which input")
        unsqueeze(model)
        values = values[None]
    elif axis:
        batch_first(model, axis, values.ndim)
        values = np.moveaxis(values, axis, 0)
    if pooling:
        values = pool(model, pooling, values)
    return Settled(values, size, batch, axis != 0 or bool(pooling))


def _batch_axis(values: npt.NDArray[Any], count: int) -> int | None:
    """The axis of ``values`` that counts inputs: the first if it can be, else the one that is as long."""
    return next((axis for axis, size in enumerate(values.shape) if size == count), None)


def _first_that_runs(graph: Graph, run: Run, count: int, fixed: int | None) -> tuple[InputSpec, npt.NDArray[Any], int | None]:
    """The input with sizes the graph runs on, what it returned, and the batch: one where it runs on no more."""
    spec = graph.input
    failure: Exception | None = None
    for tried in shapes(graph.file.model, spec):
        for batch in (fixed,) if fixed else (None, 1):
            try:
                values = np.asarray(run(_blank(graph, tried, batch or count)))
            except Exception as error:  # a graph may do anything with sizes it was not made for
                raise_if_out_of_memory(error)
                failure = failure or error
            else:
                if values.size:
                    return tried, values, batch
                failure = failure or ValueError("it returns nothing")
    assert failure is not None
    shape = "x".join("?" if size < 0 else str(size) for size in spec.shape)
    cause = f"{failure.thing} {failure.cause}" if isinstance(failure, ModelError) else one_line(failure)
    if any(size < 0 for size in spec.shape):
        said = f"the model runs on {spec.kind} inputs of shape {shape}, and on no size that its constants tell or that is usual"
        raise Skip(f"{said}: {cause}; say --input shape=...")
    raise ModelError("model", f"does not run on {spec.kind} inputs of shape {shape}: {cause}", "say --input shape=...")


def _blank(graph: Graph, spec: InputSpec, count: int) -> npt.NDArray[Any]:
    domain = graph.domain(spec)
    return domain.array(domain.random(count, seed=0))
