"""Tiny checkpoints for tests: legal ones of every kind, illegal ones by hand, and targets opened in this process.

Files are written byte by byte, not by the libraries that read them, so that every rule of a format can be broken on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard.checkpoint import DTYPE_BITS, numpy_dtype
from modelguard.model import ModelOptions, Samples

if TYPE_CHECKING:
    import onnx

    from modelguard._plugins import Registry
    from modelguard.detector import Target

Tensors = Mapping[str, npt.NDArray[Any]]


def write_safetensors(path: str | Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """Write arrays (any dtype that :func:`modelguard.numpy_dtype` gives, whole bytes each) as one safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = bytearray()
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": _dtype_name(array.dtype), "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return _write(path, safetensors_bytes(header, bytes(data)))


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file with this header, right or wrong; ``length`` is what the first 8 bytes claim."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def write_sharded(folder: str | Path, tensors: Tensors, shards: int = 2, stem: str = "model", index: bool = True) -> list[Path]:
    """Write arrays as ``<stem>-00001-of-0000N.safetensors`` files and, with ``index``, the index of Hugging Face transformers."""
    folder = Path(folder)
    names = list(tensors)
    weight_map: dict[str, str] = {}
    paths: list[Path] = []
    for number in range(shards):
        part = names[number::shards]
        path = folder / f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        paths.append(write_safetensors(path, {name: tensors[name] for name in part}, {"format": "pt"}))
        weight_map |= dict.fromkeys(part, path.name)
    if index:
        size = sum(array.nbytes for array in tensors.values())
        document = {"metadata": {"total_size": size}, "weight_map": weight_map}
        paths.append(_write(folder / f"{stem}.safetensors.index.json", json.dumps(document, indent=2).encode()))
    return paths


@dataclass(frozen=True, slots=True)
class Corruption:
    """A safetensors file that breaks one rule: its bytes, and the MG01xx rule it must be reported under."""

    data: bytes
    rule: str


def corrupt_safetensors(kind: str) -> Corruption:
    """One of :data:`CORRUPTIONS`. Raises ``KeyError`` for an unknown kind."""
    return CORRUPTIONS[kind]()


def _entry(dtype: str = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _header(entry: bytes) -> bytes:
    """A header whose only tensor ``a`` has this entry."""
    return b'{"a":' + entry + b"}"


def _bad(rule: str, header: Mapping[str, Any] | bytes, data: bytes = b"\1\2", length: int | None = None) -> Callable[[], Corruption]:
    return lambda: Corruption(safetensors_bytes(header, data, length), rule)


_SHAPED = b'{"dtype":"U8","shape":%s,"data_offsets":[0,2]}'
_PLAIN = _SHAPED % b"[2]"

CORRUPTIONS: Mapping[str, Callable[[], Corruption]] = MappingProxyType(
    {
        "empty": lambda: Corruption(b"", "MG0102"),
        "seven bytes": lambda: Corruption(b"\0" * 7, "MG0102"),
        "no header": lambda: Corruption(b"\0" * 8, "MG0102"),
        "header of 2^63 bytes": _bad("MG0104", {"a": _entry()}, length=2**63),
        "header over 100 MB": _bad("MG0104", {"a": _entry()}, length=100_000_001),
        "header longer than the file": _bad("MG0102", {"a": _entry()}, length=1000),
        "header begins with a space": _bad("MG0102", b" " + _header(_PLAIN)),
        "header begins with a byte order mark": _bad("MG0102", b"\xef\xbb\xbf" + _header(_PLAIN)),
        "header is an array": _bad("MG0102", b"[]", b""),
        "header is cut off": _bad("MG0102", _header(_PLAIN)[:-1]),
        "something after the header's object": _bad("MG0102", _header(_PLAIN) + b"{}"),
        "NUL after the header's object": _bad("MG0102", _header(_PLAIN) + b"\0"),
        "comma before the brace": _bad("MG0102", b'{"a":' + _PLAIN + b",}"),
        "not UTF-8": _bad("MG0102", b'{"\xff":' + _PLAIN + b"}"),
        "half a surrogate pair": _bad("MG0102", b'{"\\ud800":' + _PLAIN + b"}"),
        "raw control character in a name": _bad("MG0102", b'{"a\x01":' + _PLAIN + b"}"),
        "JSON nested without end": _bad("MG0102", b'{"a":' + b"[" * 200_000),
        "duplicate tensor": _bad("MG0107", b'{"a":' + _PLAIN + b',"a":' + _PLAIN + b"}"),
        "duplicate tensor, one escaped": _bad("MG0107", b'{"a":' + _PLAIN + b',"\\u0061":' + _PLAIN + b"}"),
        "duplicate key in an entry": _bad("MG0107", _header(b'{"dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2]}')),
        "duplicate key in the metadata": _bad("MG0107", b'{"__metadata__":{"a":"1","a":"2"}}', b""),
        "metadata twice": _bad("MG0107", b'{"__metadata__":{},"__metadata__":{}}', b""),
        "metadata is not text": _bad("MG0102", {"__metadata__": {"a": 1}}, b""),
        "metadata is null": _bad("MG0102", {"__metadata__": None}, b""),
        "unknown key in an entry": _bad("MG0102", {"a": {**_entry(), "x": 1}}),
        "entry without shape": _bad("MG0102", {"a": {"dtype": "U8", "data_offsets": [0, 2]}}),
        "entry is an array": _bad("MG0102", {"a": ["U8", [2], [0, 2]]}),
        "unknown dtype": _bad("MG0102", {"a": _entry("F33")}),
        "dtype of another format": _bad("MG0102", {"a": _entry("U4", (4,))}),
        "dtype is a number": _bad("MG0102", {"a": {**_entry(), "dtype": 1}}),
        "shape is a number": _bad("MG0102", _header(_SHAPED % b"2")),
        "negative dimension": _bad("MG0102", _header(_SHAPED % b"[-2]")),
        "fractional dimension": _bad("MG0102", _header(_SHAPED % b"[2.0]")),
        "dimension with an exponent": _bad("MG0102", _header(_SHAPED % b"[2e0]")),
        "dimension with a leading zero": _bad("MG0102", _header(_SHAPED % b"[02]")),
        "dimension is true": _bad("MG0102", _header(_SHAPED % b"[true]")),
        "dimension of 65 bits": _bad("MG0102", _header(_SHAPED % b"[18446744073709551616]")),
        "dimension of a million digits": _bad("MG0102", _header(_SHAPED % (b"[" + b"9" * 1_000_000 + b"]"))),
        "a million dimensions": _bad("MG0104", _header(_SHAPED % (b"[" + b"1," * 999_999 + b"1]"))),
        "33 dimensions": _bad("MG0104", {"a": _entry(shape=[1] * 32 + [2])}),
        "name of 5000 characters": _bad("MG0104", {"a" * 5000: _entry()}),
        "shape overflows": _bad("MG0105", {"a": _entry(shape=(2**63, 2))}),
        "shape overflows before it is empty": _bad("MG0105", {"a": _entry(shape=(2**63, 2**63, 0), offsets=(0, 0))}, b""),
        "shape overflows in bits": _bad("MG0105", {"a": _entry("F64", (2**61,))}),
        "half a byte": _bad("MG0105", {"a": _entry("F4", (3,))}),
        "shape larger than the bytes": _bad("MG0105", {"a": _entry(shape=(3,))}),
        "shape smaller than the bytes": _bad("MG0105", {"a": _entry(shape=(1,))}),
        "offsets reversed": _bad("MG0105", {"a": _entry(offsets=(2, 0))}),
        "one offset": _bad("MG0105", {"a": _entry(offsets=(0,))}),
        "offsets past the end": _bad("MG0105", {"a": _entry(shape=(1000,), offsets=(0, 1000))}),
        "truncated data": _bad("MG0105", {"a": _entry()}, b"\1"),
        "overlap": _bad("MG0105", {"a": _entry(), "b": _entry(offsets=(1, 3))}, b"\1\2\3"),
        "same bytes twice": _bad("MG0105", {"a": _entry(), "b": _entry()}),
        "empty tensor inside another": _bad("MG0105", {"a": _entry(), "b": _entry(shape=(0,), offsets=(1, 1))}),
        "gap": _bad("MG0106", {"a": _entry(), "b": _entry(offsets=(3, 5))}, b"\1\2\0\3\4"),
        "gap before the first tensor": _bad("MG0106", {"a": _entry(offsets=(1, 3))}, b"\0\1\2"),
        "trailing bytes": _bad("MG0106", {"a": _entry()}, b"\1\2\3"),
        "trailing bytes without tensors": _bad("MG0106", {}, b"payload"),
    }
)
"""Ways to break the format, each with the rule it is reported under."""


def write_onnx_mlp(path: str | Path, sizes: tuple[int, ...] = (8, 16, 4), seed: int = 0) -> Path:
    """A multilayer perceptron with ReLU between its ``Gemm`` layers: input ``x`` (N, sizes[0]), output logits ``y`` (N, sizes[-1])."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    nodes, weights = [], {}
    value = "x"
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        weights[f"fc{index}.weight"] = (rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in)).astype(np.float32)
        weights[f"fc{index}.bias"] = np.zeros(fan_out, np.float32)
        out = "y" if last else f"h{index}"
        nodes.append(helper.make_node("Gemm", [value, f"fc{index}.weight", f"fc{index}.bias"], [out], name=f"fc{index}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"a{index}"], name=f"relu{index}"))
            value = f"a{index}"
    return _write(path, _model(nodes, weights, ["N", sizes[0]], ["N", sizes[-1]]).SerializeToString())


def write_onnx_cnn(path: str | Path, channels: int = 1, size: int = 8, classes: int = 4, seed: int = 0) -> Path:
    """Two 3x3 convolutions, global average pooling and a linear layer: input ``x`` (N, channels, size, size), logits ``y`` (N, classes)."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    weights = {
        "conv0.weight": rng.normal(scale=0.3, size=(8, channels, 3, 3)).astype(np.float32),
        "conv0.bias": np.zeros(8, np.float32),
        "conv1.weight": rng.normal(scale=0.1, size=(16, 8, 3, 3)).astype(np.float32),
        "conv1.bias": np.zeros(16, np.float32),
        "head.weight": rng.normal(scale=0.25, size=(classes, 16)).astype(np.float32),
        "head.bias": np.zeros(classes, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv0.weight", "conv0.bias"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "conv1.weight", "conv1.bias"], ["c1"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], name="head", transB=1),
    ]
    return _write(path, _model(nodes, weights, ["N", channels, size, size], ["N", classes]).SerializeToString())


def open_target(
    path: str | Path,
    reference: str | Path | None = None,
    samples: Samples | str | Path | None = None,
    model: ModelOptions | None = None,
) -> Target:
    """What a detector gets to see of a local path, opened in this process as the scanner's worker opens it.

    Formats and model factories are those of modelguard and of every installed plugin. Raises whatever the source, the samples or the
    opening raise.
    """
    from modelguard._inputs.samples import load_samples
    from modelguard._scanner.target import make_target
    from modelguard._sources.local import LocalSource
    from modelguard.artifact import SourceContext

    registry = _installed()
    formats = [item() for item in registry.formats.values()]
    factories = [item() for item in registry.models.values()]
    options = model or ModelOptions()
    source = LocalSource()
    artifact = source.fetch(str(path), SourceContext())
    trusted = source.fetch(str(reference), SourceContext()) if reference is not None else None
    given = load_samples(Path(samples)) if isinstance(samples, str | Path) else samples
    opened = make_target(trusted, formats, factories, options) if trusted is not None else None
    return make_target(artifact, formats, factories, options, given, opened)


@cache
def _installed() -> Registry:
    """What every installed plugin registers, loaded once a process."""
    from modelguard._plugins import load

    return load()


def _model(nodes: list[Any], weights: Tensors, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return next(name for name, bits in DTYPE_BITS.items() if bits >= 8 and numpy_dtype(name) == dtype)


def _write(path: str | Path, data: bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
