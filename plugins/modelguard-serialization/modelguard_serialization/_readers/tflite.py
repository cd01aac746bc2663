"""TensorFlow Lite: the operators of a model, and the shapes of its tensors. Source: tensorflow/compiler/mlir/lite/schema/schema.fbs."""

from __future__ import annotations

import math

from modelguard_serialization._flatbuffers import Table
from modelguard_serialization._format_rules import CUSTOM_OP, DANGEROUS_OP
from modelguard_serialization._readers.tensorflow import judge_ops
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_CUSTOM = 32
_MOST = 2**31 - 1
"""Values of a tensor that runtimes can count: https://nvd.nist.gov/vuln/detail/CVE-2026-42627."""
_USUAL = frozenset(
    [
        "TFLite_Detection_PostProcess",
        "Convolution2DTransposeBias",
        "MaxPoolingWithArgmax2D",
        "MaxUnpooling2D",
        "Mfcc",
        "AudioSpectrogram",
        "NumericVerify",
        "TransformTensorBilinear",
        "TransformLandmarks",
        "Landmarks2TransformMatrix",
        "edgetpu-custom-op",
    ]
)
"""Custom operators of TensorFlow Lite's own runtime, MediaPipe's and the Edge TPU's."""


class TfLite(Reader):
    what = "a TensorFlow Lite model"
    rules = (DANGEROUS_OP, CUSTOM_OP)
    format = "tflite"

    def recognise(self, blob: Blob) -> bool:
        return blob.head(8)[4:] == b"TFL3"

    def read(self, blob: Blob, look: Look) -> None:
        model = Table.root(blob.data)
        flex: dict[str, str] = {}
        for done, code in enumerate(model.tables(1)):
            if done % 4096 == 0:
                look.check()
            builtin = max(code.number(3), code.number(0, "<b"))
            name = code.text(1)
            if builtin == _CUSTOM and not name:
                raise NotReadError("has a custom operator without a name")
            if name.startswith("Flex"):
                flex[name[4:]] = "an operator of TensorFlow inside TensorFlow Lite"
            elif builtin == _CUSTOM and name not in _USUAL:
                look.find("MG0333", blob, f"the custom operator {name[:100]!r} is no part of TensorFlow Lite", key=name[:100])
        judge_ops(flex, (), blob, look)
        for graph in model.tables(2):
            for done, tensor in enumerate(graph.tables(0)):
                if done % 4096 == 0:
                    look.check()
                if math.prod(map(abs, tensor.numbers(0))) > _MOST:
                    raise NotReadError("has a tensor with more values than 32 bits count, which some runtimes allocate too little for")
