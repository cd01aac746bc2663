"""What the libraries underneath raise reaches the user as one line with the true cause."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_runtime._failures import one_line, raise_if_out_of_memory
from onnx import TensorProto, helper, numpy_helper

from modelguard import ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from modelguard_runtime.testing import built  # noqa: E402


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.ones((6, 3), np.float32), "w")],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'"), ModelError, r"onnxruntime: is not installed .*; install it"),
        (
            ImportError("libonnxruntime.so.1: undefined symbol: f"),
            ModelError,
            r"cannot be loaded: .*undefined symbol: f; reinst",
        ),
        (ImportError("libonnxruntime.so.1: failed to map segment from shared object"), MemoryError, "failed to map segment"),
        (ImportError("libonnxruntime.so.1: cannot allocate memory in static TLS block"), MemoryError, "static TLS"),
    ],
)
def test_why_onnxruntime_is_not_there(
    model: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception], message: str
) -> None:
    real = builtins.__import__

    def fake(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise raised
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(expected, match=message):
        built(model)


def test_onnxruntime_is_quoted_far_enough_to_be_understood(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    said = "[ONNXRuntimeError] : 10 : INVALID_GRAPH : " + "This is an invalid model. " * 8 + "Error in Node:seventh"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph(said + "\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ModelError, match=r"onnxruntime: refuses the graph: .*Error in Node:seventh and more; export"):
        built(model)


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8",
        "[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc",
    ],
)
def test_memory_that_ran_out_is_told_from_a_model_that_does_not_fit(model: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    from modelguard_runtime._engines.graph import GraphEngine

    def fail(*args: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(GraphEngine, "run", fail)
    with pytest.raises(MemoryError):
        built(model)


def test_long_messages_are_cut_between_words_and_marked() -> None:
    assert one_line(RuntimeError("a\n  b\tc")) == "a b c"
    assert one_line(RuntimeError("sizes differ\n\nWhile executing %y : [num_users=1] = call_function[...]")) == "sizes differ"
    text = one_line(RuntimeError("word " * 200))
    assert text.endswith("word ...")
    assert len(text) <= 404
    raise_if_out_of_memory(RuntimeError("the sizes of tensors must match"))


def test_a_worker_without_enough_memory_says_so(tmp_path: Path) -> None:
    """A graph that wants 512 MiB for one value, which is within what a graph may ask for."""
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x", "two"], ["column"]),
            helper.make_node("Expand", ["column", "wide"], ["many"]),
            helper.make_node("Exp", ["many"], ["each"]),
            helper.make_node("ReduceMean", ["each", "two"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.array(value), name) for name, value in (("two", [2]), ("wide", [1, 1, 1 << 23]))],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    command = [sys.executable, "-m", "modelguard", "model", str(path), "-q", "--threads", "1", "--memory", "400M"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (3, "model.onnx: cannot be run: needs more memory than the limit; raise --memory\n")
