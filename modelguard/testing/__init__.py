"""For plugin authors and our own tests.

:func:`check_detector` holds a detector to its contract (:func:`contract` promise by promise) and :func:`run_detector` runs one here; the
``write_*`` functions build tiny checkpoints, legal and not; :func:`open_target` opens a path as a scan would, and :func:`as_target` makes a
target of arrays in memory. ``modelguard.testing.hub``, imported by name, is a Hub on loopback, with faults.
"""

from __future__ import annotations

from modelguard.testing.arrays import ArrayCheckpoint, as_target
from modelguard.testing.checkpoints import (
    Corruption,
    corrupt_safetensors,
    open_target,
    safetensors_bytes,
    write_onnx_cnn,
    write_onnx_mlp,
    write_safetensors,
    write_sharded,
)
from modelguard.testing.conformance import Check, check_detector, contract, run_detector

__all__ = [
    "ArrayCheckpoint",
    "Check",
    "Corruption",
    "as_target",
    "check_detector",
    "contract",
    "corrupt_safetensors",
    "open_target",
    "run_detector",
    "safetensors_bytes",
    "write_onnx_cnn",
    "write_onnx_mlp",
    "write_safetensors",
    "write_sharded",
]
