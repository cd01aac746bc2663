"""ONNX element types and tensors, as torch has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto

from modelguard_runtime.onnx.errors import MALFORMED, GraphError, UnsupportedError, WeightError
from modelguard_runtime.onnx.limits import check_elements

Weight = Callable[[str], npt.NDArray[Any]]
"""Gives the payload that was taken out under a name. What it raises passes through an import unchanged."""

EXTERNAL_KEY = "modelguard"
"""Key of the one external_data entry of a tensor whose payload was taken out; its value is the name to ask ``weight`` for."""

_NAMES = {
    "FLOAT": ("F32", torch.float32), "DOUBLE": ("F64", torch.float64), "FLOAT16": ("F16", torch.float16),
    "BFLOAT16": ("BF16", torch.bfloat16),
    "INT8": ("I8", torch.int8), "INT16": ("I16", torch.int16), "INT32": ("I32", torch.int32), "INT64": ("I64", torch.int64),
    "UINT8": ("U8", torch.uint8), "UINT16": ("U16", torch.uint16), "UINT32": ("U32", torch.uint32), "UINT64": ("U64", torch.uint64),
    "BOOL": ("BOOL", torch.bool), "COMPLEX64": ("C64", torch.complex64), "COMPLEX128": ("C128", torch.complex128),
    "FLOAT8E4M3FN": ("F8_E4M3", torch.float8_e4m3fn), "FLOAT8E4M3FNUZ": ("F8_E4M3FNUZ", torch.float8_e4m3fnuz),
    "FLOAT8E5M2": ("F8_E5M2", torch.float8_e5m2), "FLOAT8E5M2FNUZ": ("F8_E5M2FNUZ", torch.float8_e5m2fnuz),
    "UINT4": ("U4", torch.uint8), "INT4": ("I4", torch.int8), "UINT2": ("U2", torch.uint8), "INT2": ("I2", torch.int8),
}  # fmt: skip
DTYPES: Mapping[int, torch.dtype] = MappingProxyType({TensorProto.DataType.Value(k): v[1] for k, v in _NAMES.items()})
"""torch dtype an ONNX element type is held in. Types under 8 bits are held one element a byte."""

NARROW_BITS: Mapping[int, int] = MappingProxyType({TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.UINT2: 2, TensorProto.INT2: 2})
"""Bits of the element types under 8 bits."""

FLOAT8 = frozenset(number for number, dtype in DTYPES.items() if str(dtype).startswith("torch.float8"))
"""The 8-bit floating-point element types."""

DTYPE_NAMES: Mapping[int, str] = MappingProxyType({TensorProto.DataType.Value(k): v[0] for k, v in _NAMES.items()})

_VIEWS: dict[str, tuple[Any, torch.dtype]] = {"bfloat16": (np.int16, torch.bfloat16), **{
    name: (np.uint8, getattr(torch, name)) for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
}}  # fmt: skip
_SMALL = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """A graph input or output. ``dtype`` is a name such as ``F32`` or ``I64`` (empty: no tensor); a dimension is its
    size, the name the graph gives it, or None; ``shape`` is None when the graph does not say even the rank."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, proto: onnx.ValueInfoProto) -> ValueInfo:
        """Read the declaration. Nothing is checked against the graph."""
        tensor = proto.type.tensor_type
        dims: tuple[int | str | None, ...] | None = None
        if tensor.HasField("shape"):
            dims = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
        return cls(proto.name, DTYPE_NAMES.get(tensor.elem_type, ""), dims)


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype of a :class:`ValueInfo`'s."""
    return next(DTYPES[number] for number, known in DTYPE_NAMES.items() if known == name)


def torch_dtype(element_type: int, what: str) -> torch.dtype:
    """The torch dtype of an ONNX element type. Raises :class:`UnsupportedError` where torch has none, :class:`GraphError` where there is
    no such type."""
    if element_type not in DTYPES:
        if element_type in TensorProto.DataType.values():
            raise UnsupportedError(what, f"has element type {TensorProto.DataType.Name(element_type)}, which is not supported")
        raise GraphError(what, f"has element type {element_type}, which cannot be run")
    return DTYPES[element_type]


def element_type(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch dtype."""
    return next(number for number, held in DTYPES.items() if held is dtype)


def from_numpy(array: npt.NDArray[Any], what: str) -> torch.Tensor:
    """The array as a tensor that shares its memory (ml_dtypes included). The tensor of a read-only array must not be written to."""
    name = array.dtype.name
    if name in _SMALL:
        return torch.from_numpy(array.astype(_SMALL[name]))
    view = _VIEWS.get(name)
    try:
        with warnings.catch_warnings():
            # Weights are memory-mapped read-only, and nothing here writes to a weight.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            if array.dtype.byteorder == "=" and not all(array.strides):
                array = np.ascontiguousarray(array)
            return torch.from_numpy(array) if view is None else torch.from_numpy(array.view(view[0])).view(view[1])
    except TypeError as error:
        raise GraphError(what, f"has elements of type {name}, which torch does not have", "the tensor cannot be run") from error


def read_tensor(proto: TensorProto, weight: Weight | None) -> torch.Tensor:
    """The tensor of a proto, sharing memory with what ``weight`` returns where its payload was taken out.

    Raises :class:`GraphError` for external data, payloads that do not fill the shape, and element types torch does not have.
    """
    what = f"tensor {proto.name[:80]!r}"
    dims = tuple(proto.dims)
    if any(d < 0 for d in dims):
        raise GraphError(what, f"has a negative dimension in {list(dims)}", MALFORMED)
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        entries = [(entry.key, entry.value) for entry in proto.external_data]
        if weight is None or len(entries) != 1 or entries[0][0] != EXTERNAL_KEY:
            raise GraphError(what, "refers to data outside the graph", "external data must be resolved before the graph is imported")
        try:
            array = weight(entries[0][1])
        except Exception as error:
            raise WeightError(error) from error
        if tuple(array.shape) != dims:
            raise GraphError(what, f"has shape {list(dims)} in the graph and {list(array.shape)} in the checkpoint")
        return from_numpy(array, what)
    torch_dtype(proto.data_type, what)
    check_payload(proto, what, prod(dims))
    try:
        return from_numpy(onnx.numpy_helper.to_array(proto), what)
    except (ValueError, TypeError) as error:
        raise GraphError(what, f"cannot be read ({error})", MALFORMED) from error


_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def check_payload(proto: TensorProto, what: str, elements: int) -> None:
    """Refuse a payload that does not hold exactly ``elements`` elements, before an array of that size is made."""
    bits = NARROW_BITS.get(proto.data_type) or DTYPES[proto.data_type].itemsize * 8
    if proto.HasField("raw_data"):
        held, needed = len(proto.raw_data), (elements * bits + 7) // 8
    else:
        held = sum(len(getattr(proto, field)) for field in _FIELDS)
        needed = (elements * bits + 7) // 8 if bits < 8 else elements * (2 if DTYPES[proto.data_type].is_complex else 1)
    if held != needed:
        raise GraphError(what, f"declares shape {list(proto.dims)} but carries {held} instead of {needed} stored values", MALFORMED)


def read_sparse(proto: onnx.SparseTensorProto, weight: Weight | None) -> torch.Tensor:
    """A sparse tensor made dense; its indices are linear or one row of coordinates a value."""
    what = f"sparse tensor {proto.values.name[:80]!r}"
    check_elements(what, proto.dims, 1 << 28)
    values, indices = read_tensor(proto.values, weight), read_tensor(proto.indices, weight).to(torch.int64)
    if indices.ndim == 2:
        strides = torch.tensor([prod(proto.dims[i + 1 :]) for i in range(len(proto.dims))], dtype=torch.int64)
        indices = (indices * strides).sum(1)
    size = prod(proto.dims)
    if indices.numel() != values.numel() or (indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < size)):
        raise GraphError(what, "has indices outside its shape", MALFORMED)
    dense = torch.zeros(size, dtype=values.dtype)
    dense[indices] = values.flatten()
    return dense.reshape(tuple(proto.dims))
