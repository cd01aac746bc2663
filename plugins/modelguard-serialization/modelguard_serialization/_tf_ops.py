"""Which TensorFlow operators and functions reach outside a model."""

from __future__ import annotations

import re

from modelguard import Severity
from modelguard_serialization._known import known

_CALLS_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "RaggedPyFunc"})
_WRITES = known("tensorflow_writes")
_TALKS = frozenset(
    ["RpcServer", "RpcServerStart", "RpcServerRegister", "RpcClient", "RpcCall", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3"]
)
_READS = known("tensorflow_reads")


def judge_op(op: str) -> tuple[str, Severity | None, str] | None:
    """Rule, severity and what the operator does, for one worth telling; None for an ordinary one.

    Operators of composed names (``Custom>Name``) are other libraries' own, as names of no release of TensorFlow are.
    """
    if op in _CALLS_PYTHON:
        return "MG0332", Severity.CRITICAL, "calls Python"
    if op in _WRITES:
        return "MG0332", Severity.CRITICAL, "writes files"
    if op in _TALKS:
        return "MG0332", Severity.CRITICAL if op.startswith("Rpc") else Severity.HIGH, "sends data elsewhere"
    if op in _READS:
        return "MG0332", Severity.HIGH, "reads files"
    return None if op in known("tensorflow_ops") or op.startswith("_") else ("MG0333", None, "is no operator of TensorFlow")


_PURE = re.compile(
    r"(?:math|nn|linalg|signal|image|strings|sparse|ragged|random|bitwise|quantization|audio|sets|dtypes|__operators__|keras\.(?:backend|ops|activations))(?:\.\w+)+"
)
_NOT_PURE = frozenset(
    ["py_function", "numpy_function", "load_library", "load_op_library", "print", "function", "init_scope", "Module", "group"]
)
_RUNS = re.compile(r"py_func|numpy_function|load_|save|write|io\.|gfile|raw_ops|get_file|eval|exec|system")


def judge_function(name: str) -> Severity | None:
    """How bad it is that a layer calls the TensorFlow function of this exported name; None when it computes and nothing else."""
    plain = re.sub(r"^(?:tf\.)?(?:compat\.v[12]\.)?", "", name)
    if _RUNS.search(plain):
        return Severity.CRITICAL
    return None if _PURE.fullmatch(plain) or (re.fullmatch(r"\w+", plain) and plain not in _NOT_PURE) else Severity.HIGH
