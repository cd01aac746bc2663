"""An ONNX model as values: what a file computes from its inputs and its weights. Given by :meth:`modelguard.Checkpoint.graph`.

Fields are named as in onnx.proto (IR version 13, onnx 1.23) and hold what the file says; nothing is inferred and nothing is checked
beyond the form. Everything in here is untrusted. Names are text: bytes that are not UTF-8 are escaped (``\\xff``), and two names
that would then read alike are kept apart by apostrophes behind one of them. The domain of ONNX's own operators, which files call
``ai.onnx`` as well, is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

Properties = tuple[tuple[str, str], ...]
"""Key and value of every metadata_props entry, in the order of the file; keys may be there twice."""

TEXT = "STRING"
"""The dtype of a tensor of text, which checkpoints do not list."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A TensorProto. ``dtype`` is a key of :data:`modelguard.DTYPE_BITS`, or :data:`TEXT`.

    ``stored`` is its name in the tensors of the checkpoint, where its values are read. A tensor that no checkpoint lists (a constant of
    up to 64 bytes in an attribute, or text) has None there and holds its values: ``data`` are little-endian elements in C order,
    ``texts`` the elements of a tensor of text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str | None
    data: bytes = b""
    texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SparseTensor:
    """A SparseTensorProto of ``shape``: ``values`` (n,), and where they go: ``indices`` (n,) or (n, rank)."""

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.values.name


@dataclass(frozen=True, slots=True)
class Attribute:
    """An AttributeProto: one of the fields holds its value, which ``type`` (AttributeProto.AttributeType) names; others are empty.

    ``reference`` is the attribute of the function around it whose value it takes. ``floats`` (float32) and ``ints`` (int64) are
    read-only vectors or None; ``types`` are serialised TypeProtos.
    """

    name: str
    type: int = 0
    reference: str = ""
    f: float | None = None
    i: int | None = None
    s: bytes | None = None
    t: Tensor | None = None
    g: Graph | None = None
    sparse_tensor: SparseTensor | None = None
    floats: npt.NDArray[Any] | None = None
    ints: npt.NDArray[Any] | None = None
    strings: tuple[bytes, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    graphs: tuple[Graph, ...] = ()
    sparse_tensors: tuple[SparseTensor, ...] = ()
    types: tuple[bytes, ...] = ()
    doc: str = ""

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        """The graphs in it."""
        return self.graphs if self.g is None else (self.g, *self.graphs)


@dataclass(frozen=True, slots=True)
class Node:
    """A NodeProto. Inputs and outputs are names of values; an empty one stands for an optional value that is not there."""

    op: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    doc: str = ""
    metadata: Properties = ()

    @property
    def subgraphs(self) -> Iterator[Graph]:
        """The graphs in its attributes: branches, and bodies of loops."""
        return (graph for attribute in self.attributes for graph in attribute.subgraphs)


@dataclass(frozen=True, slots=True)
class Graph:
    """A GraphProto: the main graph of a model, or one in an attribute, whose nodes see the values of the graphs around it.

    ``types`` are the names of the inputs, then of the outputs, each with its serialised TypeProto (empty where none is declared).
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[Tensor, ...] = ()
    sparse_initializers: tuple[SparseTensor, ...] = ()
    doc: str = ""
    metadata: Properties = ()
    types: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A FunctionProto: an operator that the model defines itself. ``attributes`` have no default, ``defaults`` are the others."""

    domain: str
    name: str
    overload: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    attributes: tuple[str, ...] = ()
    defaults: tuple[Attribute, ...] = ()
    opsets: tuple[tuple[str, int], ...] = ()
    doc: str = ""
    metadata: Properties = ()


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A ModelProto. ``opsets`` are domain and version of the operator sets it imports.

    ``training`` are serialised TrainingInfoProtos without the values of large tensors, as in :func:`modelguard.onnx_skeleton`.
    """

    graph: Graph
    functions: tuple[Function, ...] = ()
    opsets: tuple[tuple[str, int], ...] = ()
    training: tuple[bytes, ...] = ()
    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    domain: str = ""
    doc: str = ""
    metadata: Properties = ()
