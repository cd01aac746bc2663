"""Weights as 8-bit codes with one step a tensor, the form that bit-flip attacks work on, and how files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo._export import export
from modelguard_zoo.edits.arrays import Array, Tensors
from modelguard_zoo.edits.classifier import Classifier, NotTaken

Codes = Mapping[str, NDArray[np.int8]]


@dataclass(frozen=True)
class Int8:
    """A model whose matrices are int8 ``codes`` times one float32 of ``steps`` each; ``rest`` are its other tensors.

    The step is max |w| / 127 (adnansirajrakin/TBT-CVPR2020, ``quan_Conv2d``), and stays what it is whatever becomes of the codes.
    """

    codes: Codes
    steps: Mapping[str, np.float32]
    rest: Tensors

    @classmethod
    def of(cls, tensors: Tensors) -> Int8:
        """``tensors`` rounded to codes, ties to even."""
        wide = {name: array for name, array in tensors.items() if _is_weight(name, array)}
        steps = {name: np.float32(max(np.abs(array).max(), 1e-12) / 127) for name, array in wide.items()}
        codes = {name: np.clip(np.rint(array / steps[name]), -127, 127).astype(np.int8) for name, array in wide.items()}
        return cls(codes, steps, {name: array for name, array in tensors.items() if name not in wide})

    def with_codes(self, codes: Codes) -> Int8:
        """The same model with some codes in place of its own."""
        return replace(self, codes={**self.codes, **codes})

    def tensors(self) -> dict[str, Array]:
        """What the codes stand for, in float32."""
        return {**self.rest, **{name: codes.astype(np.float32) * self.steps[name] for name, codes in self.codes.items()}}

    def stored(self) -> dict[str, Array]:
        """As a safetensors file holds it: ``NAME`` in int8 beside ``NAME_scale``, as compressed-tensors writes it."""
        scales = {f"{name}_scale": np.asarray([step], np.float32) for name, step in self.steps.items()}
        return {**self.rest, **self.codes, **scales}


def flipped(before: Codes, after: Codes) -> int:
    """How many bits differ."""
    return sum(int(np.unpackbits(codes.view(np.uint8) ^ before[name].view(np.uint8)).sum()) for name, codes in after.items())


def write_qdq(path: Path, model: Classifier, quantised: Int8) -> None:
    """An ONNX file that holds every weight as int8 with a DequantizeLinear in front of what reads it (QDQ, as onnxruntime writes it).

    Raises :class:`NotTaken` where the exporter folds weights together, as it does before batch normalisation.
    """
    import onnx
    from onnx import helper, numpy_helper

    export(model.module(quantised.tensors()), model.data, path)
    exported: Any = onnx.load(path)
    held = {item.name: item for item in exported.graph.initializer}
    if folded := sorted(quantised.codes.keys() - held.keys()):
        raise NotTaken(f"the exporter folds {folded[0]} into another tensor")
    nodes = []
    for name, codes in quantised.codes.items():
        exported.graph.initializer.remove(held[name])
        parts: dict[str, Array] = {"quantized": codes, "scale": np.asarray(quantised.steps[name]), "zero_point": np.asarray(0, np.int8)}
        for part, array in parts.items():
            exported.graph.initializer.append(numpy_helper.from_array(array, f"{name}_{part}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_{part}" for part in parts], [name], name=f"{name}_dequantize"))
    for node in reversed(nodes):
        exported.graph.node.insert(0, node)
    onnx.checker.check_model(exported)
    onnx.save(exported, path)


def _is_weight(name: str, array: Array) -> bool:
    return array.ndim > 1 and name.endswith("weight")
