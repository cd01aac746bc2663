"""How each operator is lowered: most by a call of their function in the operator table, a few in a way of their own."""

from __future__ import annotations

from collections.abc import Sequence

from modelguard_runtime.onnx.errors import UnsupportedError
from modelguard_runtime.onnx.graph.values import Ints, Value
from modelguard_runtime.onnx.lower import constants, control, integers, operators
from modelguard_runtime.onnx.lower.call import Call, Lowering
from modelguard_runtime.onnx.ops import ONNX, TABLE, find

LOWERINGS: dict[str, Lowering] = {
    "Constant": constants.constant, "Shape": constants.shape, "Size": constants.size, "Identity": constants.identity,
    "If": control.branch, "Loop": control.loop, "Scan": control.scan,
}  # fmt: skip
"""Of the default domain, the operators that are no function of tensors."""


def lower(call: Call) -> Sequence[Value | None]:
    """The node's outputs. Raises :class:`UnsupportedError` when there is no such operator, or not in this opset."""
    if call.domain == ONNX and call.op_type in LOWERINGS:
        return LOWERINGS[call.op_type](call)
    for name in call.subgraphs:
        raise UnsupportedError(f"attribute {name[:80]!r}", "is of a kind that is not supported")
    operator = find(call.domain, call.op_type, call.opset)
    if operator is None:
        raise UnsupportedError(
            f"operator {call.op_type[:80]} (domain {call.domain[:80] or 'ai.onnx'}, opset {call.opset})",
            f"is not supported; first used by node {(call.node.name or next(iter(call.node.output), ''))[:80]!r}",
        )
    if call.domain == ONNX and any(isinstance(value, Ints) for value in call.inputs):
        result = integers.lower(call)
        if result is not None:
            return [result]
    return operators.lower(call, operator)


def supported() -> dict[tuple[str, str], list[int]]:
    """Every operator that is lowered, by domain and name, with the opsets its meaning implemented begins and changes in."""
    table = {key: sorted({operator.since for operator in entries}) for key, entries in TABLE.items()}
    return table | {(ONNX, name): [1] for name in LOWERINGS}
