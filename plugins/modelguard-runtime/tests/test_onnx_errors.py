"""The ONNX importer's errors reach the user as modelguard's, whole."""

from __future__ import annotations

import pytest
from modelguard_runtime._graph_errors import graph_errors
from modelguard_runtime.onnx import GraphError, GraphLimitError, UnsupportedError

from modelguard import LimitError, ModelError, ModelguardError, Skip


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(GraphError("node 'n'", "has a cycle", "export it again"), ModelError), (GraphLimitError("g", "is big"), LimitError)],
)
def test_thing_cause_and_remedy_are_kept(raised: GraphError | GraphLimitError, expected: type[ModelguardError]) -> None:
    with pytest.raises(expected) as caught, graph_errors():
        raise raised
    assert (caught.value.thing, caught.value.cause, caught.value.remedy) == (raised.thing, raised.cause, raised.remedy)
    assert str(caught.value) == str(raised)


def test_what_is_not_supported_is_a_reason_to_skip() -> None:
    with pytest.raises(Skip, match=r"^operator Foo is not supported$"), graph_errors():
        raise UnsupportedError("operator Foo", "is not supported")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), graph_errors():
        raise KeyError("x")
