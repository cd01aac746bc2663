"""The operators, a file a family. Importing this package fills the operator table."""

from __future__ import annotations

from modelguard_runtime.onnx.ops import (
    activation,
    attention,
    base,
    conv,
    elementwise,
    index,
    linear,
    loss,
    microsoft,
    ml,
    movement,
    norm,
    pool,
    quantize,
    random,
    reduce,
    resize,
    rnn,
    sequence,
    signal,
    vision,
)
from modelguard_runtime.onnx.ops.table import MICROSOFT, ML, NEWEST, ONNX, TABLE, Operator, find

__all__ = [
    "MICROSOFT", "ML", "NEWEST", "ONNX", "TABLE", "Operator", "find",
    "activation", "attention", "base", "conv", "elementwise", "index", "linear", "loss", "microsoft", "ml", "movement", "norm", "pool",
    "quantize", "random", "reduce", "resize", "rnn", "sequence", "signal", "vision",
]  # fmt: skip
