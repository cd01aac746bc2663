"""Where an ONNX graph's logits are: which output to read, and the softmax or sigmoid it ends in taken off."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelguard import Skip, UsageError
from modelguard_runtime._onnx_model.roles import LONGEST, SHOWN, Dim, GraphInput, declared, is_state

if TYPE_CHECKING:
    import numpy.typing as npt

_HEADS = {"Softmax": "softmax", "LogSoftmax": "log-softmax", "Sigmoid": "sigmoid"}
_TRANSPARENT = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Dropout")
"""Operators between the head and the output that change no value."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_NAMES = ("logits", "scores", "probabilities", "output_probability", "probs", "output")
"""Names exporters give the output that classifies, best first."""
_CARRIED = re.compile(
    r"^(present|past|new_|next_|out_)?(key_values?|cache|state|hidden|[hc]n|mems?)|(state|cache|hidden)(n|_?out|_?new)?$", re.I
)
"""Names of what is carried on to the next call, and of inner layers: the last choice."""


@dataclass(frozen=True, slots=True)
class Head:
    """``output`` is the graph output that was chosen among ``outputs``, declared of ``shape``; ``head`` what was taken off it
    (``unknown``: nothing was found); ``pooling`` is how the user wants its positions to become one, "" where he does not."""

    output: str
    outputs: tuple[str, ...]
    head: str
    shape: tuple[Dim, ...] | None
    pooling: str = ""


def take_off(model: onnx.ModelProto, inputs: Sequence[GraphInput] = (), option: str | None = None) -> Head:
    """Make the logits the only output of the graph, in place.

    ``option`` is the user's ``NAME[,POOL]``: the output to read, and how its positions become one. Raises :class:`~modelguard.Skip` when
    no output is a floating-point tensor, :class:`~modelguard.UsageError` for an option that does not fit the graph.
    """
    name, _, pooling = (option or "").partition(",")
    makers = {made: node for node in model.graph.node for made in node.output if made}
    chosen, source = _choose(model, makers, inputs, name or None)
    outputs = tuple(output.name for output in model.graph.output)
    end, head = source, "unknown"
    # Bounded by the number of nodes: a cyclic graph must not hang this.
    for _ in range(len(model.graph.node)):
        node = makers.get(end)
        if node is None or node.domain not in ("", "ai.onnx") or not node.input:
            break
        if node.op_type in _HEADS:
            end, head = node.input[0], _HEADS[node.op_type]
            break
        if node.op_type not in _TRANSPARENT:
            break
        end = node.input[0]
    kept = onnx.ValueInfoProto()
    output = next((output for output in model.graph.output if output.name == source), None)
    if head == "unknown" and output is not None:
        kept.CopyFrom(output)
    else:
        # The exporter does not say what comes before the head; it is as wide as the head's output, in the same type.
        kept.name = source if head == "unknown" else end
        element = output.type.tensor_type.elem_type if output is not None else TensorProto.FLOAT
        kept.type.tensor_type.elem_type = _declared_type(model, kept.name) or element
    shape = declared(output).shape if output is not None else None
    del model.graph.output[:]
    model.graph.output.append(kept)
    return Head(chosen, outputs, head, shape, pooling)


def append(model: onnx.ModelProto, op: str, inputs: Sequence[onnx.TensorProto] = (), **attributes: Any) -> None:
    """Put one more operator behind the graph's output, in place."""
    output = model.graph.output[0]
    taken = {name for node in model.graph.node for name in node.output} | {tensor.name for tensor in model.graph.initializer}
    made = f"{output.name}.{op}"
    while made in taken:
        made += "_"
    names = []
    for place, tensor in enumerate(inputs):
        tensor.name = f"{made}.{place}"
        names.append(tensor.name)
        model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node(op, [output.name, *names], [made], **attributes))
    element = output.type.tensor_type.elem_type
    output.Clear()
    output.name = made
    output.type.tensor_type.elem_type = element


def new_prefix(model: onnx.ModelProto, word: str) -> str:
    """What no name of the graph begins with, the same for the same graph: its names cannot have been chosen to hold their own digest."""
    digest = hashlib.sha256()
    for node in model.graph.node:
        digest.update("\n".join((*node.input, *node.output)).encode("utf-8", "surrogatepass"))
    return f"{word}-{digest.hexdigest()[:16]}"


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX' own operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 17)


def integers(values: Sequence[int]) -> onnx.TensorProto:
    """A tensor of axes or sizes."""
    return numpy_helper.from_array(np.array(values, np.int64))


def unsqueeze(model: onnx.ModelProto) -> None:
    """Give the output an axis in front, in place."""
    if opset(model) >= 13:
        append(model, "Unsqueeze", [integers([0])])
    else:
        append(model, "Unsqueeze", axes=[0])


def pool(model: onnx.ModelProto, how: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make one row of the values (N, T, K) or (N, K, ...) of each input, in place; returns what becomes of ``values``.

    Raises :class:`~modelguard.UsageError` where the output has no positions, or is a map that has no first one.
    """
    if values.ndim < 3:
        raise UsageError(f"--model-output ...,{how}", "the output has one row of values an input", f"leave ,{how} out")
    axes = (1,) if values.ndim == 3 else tuple(range(2, values.ndim))
    if how in ("first", "last"):
        if values.ndim != 3:
            raise UsageError(f"--model-output ...,{how}", "the output is a map, not a sequence", "write mean or max")
        place = 0 if how == "first" else -1
        append(model, "Gather", [numpy_helper.from_array(np.array(place, np.int64))], axis=1)
        return values[:, place]
    if opset(model) >= 18:
        append(model, f"Reduce{how.capitalize()}", [integers(axes)], keepdims=0)
    else:
        append(model, f"Reduce{how.capitalize()}", axes=axes, keepdims=0)
    pooled: npt.NDArray[Any] = values.mean(axes) if how == "mean" else values.max(axes)
    return pooled


def _choose(model: onnx.ModelProto, makers: dict[str, onnx.NodeProto], inputs: Sequence[GraphInput], name: str | None) -> tuple[str, str]:
    """The name of the classifying output, and of the tensor behind it (before a ZipMap, which makes dictionaries)."""
    found = [declared(output) for output in model.graph.output]
    carried = {out.name for out in found for info in inputs if is_state(info, [out])}
    candidates: list[tuple[tuple[int, ...], str, str]] = []
    for place, output in enumerate(found):
        maker = makers.get(output.name)
        if maker is not None and maker.op_type == "ZipMap" and maker.input:
            candidates.append(((0, 0, 0, place), output.name, maker.input[0]))
        elif output.element in _FLOATS or (
            maker is not None
            and maker.domain == "ai.onnx.ml"
            and maker.op_type.endswith("Classifier")
            and list(maker.output).index(output.name) == 1
        ):
            rank = output.rank if output.rank >= 0 else 2
            plain = output.name.lower()[:LONGEST]
            named = _NAMES.index(plain) if plain in _NAMES else len(_NAMES)
            last = output.name in carried or (named == len(_NAMES) and bool(_CARRIED.search(plain)))
            candidates.append(((int(last), named, 0 if rank == 2 else 1, place), output.name, output.name))
    if name is not None:
        picked = next(((chosen, source) for _, chosen, source in candidates if chosen == name), None)
        if picked is None:
            known = ", ".join(repr(chosen[:60]) for _, chosen, _ in candidates[:SHOWN]) or "none"
            known += f" and {len(candidates) - SHOWN} more" if len(candidates) > SHOWN else ""
            raise UsageError(f"--model-output {name}", "the graph has no such floating-point output", f"it has {known}")
        return picked
    if not candidates:
        raise Skip("the graph has no floating-point output: export the model so that it returns its logits")
    _, chosen, source = min(candidates)
    return chosen, source


def _declared_type(model: onnx.ModelProto, name: str) -> int:
    return next((int(value.type.tensor_type.elem_type) for value in model.graph.value_info if value.name == name), 0)
