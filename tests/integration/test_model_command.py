"""``modelguard model`` from the command line: the answer first, JSON for machines, exit codes, and isolation."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import digits, digits_module
from support import Ran

pytestmark = pytest.mark.usefixtures("in_process")

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX classifier of digits ending in a softmax, and samples for it."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model")
    module = torch.nn.Sequential(copy.deepcopy(digits_module("cnn")), torch.nn.Softmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.rand(1, 1, 8, 8),), str(path / "digits.onnx"), dynamo=False, input_names=["input"])
    test = digits()[1]
    np.savez(path / "samples.npz", inputs=test.inputs, labels=test.labels)  # type: ignore[arg-type]
    return path


def test_the_first_line_is_the_answer(mg: Callable[..., Ran], folder: Path) -> None:
    ran = mg("model", folder / "digits.onnx", "--samples", folder / "samples.npz", "--threads", "1", "-q")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "digits.onnx: runs and can be differentiated; image of shape 1x8x8 -> 10 classes"
    assert any("output" in line and "head softmax" in line for line in lines)
    assert any("parity" in line and "ok: within 0.001 of onnxruntime on 3 random inputs and 8 samples" in line for line in lines)
    assert any("agreement" in line and "of 256 samples are predicted as labelled" in line for line in lines)
    assert any("operators" in line and "Conv 2" in line for line in lines)
    assert lines[-1].split() == ["linear", "10", "/0/0.11/Gemm"]
    assert str(folder) not in ran.out


def test_json_has_what_a_machine_wants(mg: Callable[..., Ran], folder: Path) -> None:
    ran = mg("model", folder / "digits.onnx", "--json", "--threads", "1")
    state = json.loads(ran.out)
    assert ran.code == 0
    assert state["runs"] is True
    model = state["model"]
    assert model["input"]["shape"] == [1, 8, 8]
    assert model["output"] == {"kind": "classifier", "classes": 10, "head": "softmax", "labels": [], "told_by": "a softmax"}
    assert model["parity"]["ok"] is True
    assert 0 <= model["parity"]["max_rel"] < 1e-4
    assert model["operators"]["Conv"] == 2
    assert model["layers"][0] == {"name": "/0/0.0/Conv", "kind": "conv", "shape": [16, 8, 8], "unit_axis": 0}
    assert model["graph"]["inputs"] == [{"name": "input", "dtype": "F32", "shape": [1, 1, 8, 8]}]
    assert ran.err == ""


def test_samples_that_are_not_understood_are_shouted(mg: Callable[..., Ran], folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", inputs=rng.random((100, 1, 8, 8), np.float32), labels=rng.integers(0, 10, 100))
    ran = mg("model", folder / "digits.onnx", "--samples", tmp_path / "noise.npz", "--threads", "1", "-q")
    assert ran.code == 0
    assert "NOT UNDERSTOOD" in ran.out


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--input", "rnge=0..1"], 2, "is not a known setting"),
        (["--samples", "nowhere.npz"], 2, "does not exist"),
        (["--model", "no_such_module_of_tests:f"], 3, "cannot be imported"),
        (["--input", "shape=3x9x9"], 3, "does not run on image inputs of shape 3x9x9"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(mg: Callable[..., Ran], folder: Path, given: list[str], code: int, message: str) -> None:
    ran = mg("model", folder / "digits.onnx", "--threads", "1", "-q", *given)
    assert ran.code == code
    assert message in ran.out + ran.err


def test_an_artifact_without_a_model_is_no_success(mg: Callable[..., Ran], tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros((2, 2, 2), np.float32)}, tmp_path / "model.safetensors")
    ran = mg("model", tmp_path, "-q")
    assert ran.code == 3
    assert "cannot be run: needs a model that can be run" in ran.out
    assert json.loads(mg("model", tmp_path, "--json").out)["runs"] is False


def test_the_users_factory_is_found_from_the_folder_one_stands_in(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    save_file(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).state_dict(), tmp_path / "w.safetensors")
    command = [sys.executable, "-m", "modelguard", "model", str(tmp_path / "w.safetensors"), "--model", "mine:net", "--threads", "1", "-q"]
    ran = subprocess.run(command, cwd=project, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert "vector of shape 6 -> 3 classes" in ran.stdout
    assert "--model mine:net (the user's own code)" in ran.stdout


LOOK = """
import pickle, sys
from modelguard._cli import run
from modelguard._scanner.prepare import Prepared
scan = Prepared.scan
def keeping(*given):
    report = scan(*given)
    with open(sys.argv[2], "wb") as file:
        pickle.dump(report, file)
    return report
Prepared.scan = keeping
code = run(["model", sys.argv[1], "-q", "--threads", "1"])
print(code, sorted({"torch", "onnx", "onnxruntime", "transformers"} & set(sys.modules)))
"""
TELL = """
import pickle, sys
from modelguard._cli import main
from modelguard._scanner.prepare import Prepared
with open(sys.argv[2], "rb") as file:
    report = pickle.load(file)
Prepared.scan = lambda *given: report
main(["model", sys.argv[1], "-q", *sys.argv[3:]])
"""


@pytest.fixture(scope="module")
def looked(folder: Path) -> tuple[list[str], str]:
    """A command that says of digits.onnx what a first one found out, without looking again; and what the first one printed."""
    found = [str(folder / "digits.onnx"), str(folder / "found")]
    ran = subprocess.run([sys.executable, "-c", LOOK, *found], capture_output=True, text=True, check=True)
    return [sys.executable, "-c", TELL, *found], ran.stdout


def test_the_command_itself_never_imports_torch(looked: tuple[list[str], str]) -> None:
    """Only the worker does: the parent process stays small and out of the artifact's reach."""
    assert looked[1].splitlines()[-1] == "0 []"


def test_hostile_names_do_not_reach_the_terminal(mg: Callable[..., Ran], folder: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(folder / "digits.onnx")
    for node in model.graph.node:
        node.name += "\x1b[2J"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    ran: Any = mg("model", path, "--threads", "1", "-q")
    assert ran.code == 0
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_away_changes_nothing(looked: tuple[list[str], str], more: list[str]) -> None:
    """Exit code 1 would say that the model is blocked."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([*looked[0], *more], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_full_disk_is_told(looked: tuple[list[str], str]) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(looked[0], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 3
    assert ran.stderr == "modelguard: error: standard output: cannot be written (No space left on device); free some space\n"


def test_a_terminal_of_80_columns(looked: tuple[list[str], str]) -> None:
    """Rows are broken below their second column; the lines of layers are left whole."""
    import pty

    here, there = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    with subprocess.Popen(looked[0], stdout=there, env=environment) as process:
        os.close(there)
        text = b""
        with contextlib.suppress(OSError):  # the other side of a terminal that is closed
            while block := os.read(here, 65536):
                text += block
    os.close(here)
    assert process.returncode == 0
    lines = text.decode().splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("    ") or line.startswith(" " * 16))
    said = next(index for index, line in enumerate(lines) if line.startswith("  said by"))
    assert lines[said + 1].startswith(" " * 16)
    assert "ONNX graph (dtype, kind, layout, shape)" in lines[said]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.onnx", b"", "is a model without a graph"),
        ("text.onnx", b"hello", "byte 2: field 13 has wire type 4"),
        ("half.onnx", ..., "byte 0|byte [0-9]+: field [0-9]+ claims"),
    ],
)
def test_a_file_that_is_no_graph_is_one_line(
    mg: Callable[..., Ran], folder: Path, tmp_path: Path, name: str, content: Any, words: str
) -> None:
    import re

    path = tmp_path / name
    path.write_bytes((folder / "digits.onnx").read_bytes()[:9000] if content is ... else content)
    ran = mg("model", path, "-q")
    assert (ran.code, ran.err, len(ran.out.splitlines())) == (3, "", 1)
    assert re.search(words, ran.out)
    assert str(tmp_path) not in ran.out
