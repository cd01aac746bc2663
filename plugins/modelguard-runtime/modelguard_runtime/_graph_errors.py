"""The errors of the ONNX importer in modelguard's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelguard import LimitError, ModelError, Skip
from modelguard_runtime.onnx import GraphError, GraphLimitError, UnsupportedError


@contextmanager
def graph_errors() -> Iterator[None]:
    """Around importing a graph, and around running one: its errors as :class:`ModelError`, :class:`LimitError` and :class:`Skip`."""
    try:
        yield
    except UnsupportedError as error:
        raise Skip(str(error)) from error
    except GraphLimitError as error:
        raise LimitError(error.thing, error.cause, error.remedy) from error
    except GraphError as error:
        raise ModelError(error.thing, error.cause, error.remedy) from error
