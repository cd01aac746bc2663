"""A plugin nobody here wrote: installed with pip into a virtual environment, found, run, and named in the report."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import laid_out, make_venv

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "{version}"
[project.entry-points.modelguard]
{entry} = "{module}"
[tool.setuptools]
py-modules = ["{module}"]
"""
MODULE = '''
from modelguard import Capability, Confidence, Detector, Finding, Location, Rule, Severity, hookimpl


class Square(Detector):
    """Finds square matrices."""

    id = "{detector}"
    requires = frozenset({{Capability.WEIGHTS}})
    rules = (Rule("ACME-0001", "Square", "a square matrix", Severity.LOW, "A matrix is square.", "Nothing to do."),)

    def detect(self, target, context):
        count = 0
        for checkpoint, tensor in target.walk():
            if len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]:
                count += 1
                yield Finding("ACME-0001", f"{{tensor.name}} is square", Confidence.HIGH, location=Location(tensor.file, tensor.name))
        context.summary(score=float(count))


@hookimpl
def modelguard_detectors():
    return [Square]
'''


def write_plugin(folder: Path, name: str, version: str, module: str, detector: str, entry: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name, version=version, module=module, entry=entry))
    (folder / f"{module}.py").write_text(textwrap.dedent(MODULE.format(detector=detector)))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv")
    plugin = write_plugin(folder / "src", "acme-squares", "3.1.4", "acme_squares", "square", "squares")
    return make_venv(folder / "env", plugin)


def test_it_is_found_run_and_named_in_the_report(python: Path, tiny_model: Path) -> None:
    ran = subprocess.run([python, "-m", "modelguard", "scan", tiny_model, "-f", "json", "-q"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert {"name": "acme-squares", "version": "3.1.4", "detectors": ["square"]} in report["plugins"]
    outcome = next(item for item in report["outcomes"] if item["detector"] == "square")
    assert outcome["status"] == "completed"
    assert [finding["location"]["tensor"] for finding in outcome["findings"]] == [f"layers.{i}.weight" for i in range(3)]


def test_it_can_be_left_out(python: Path, tiny_model: Path) -> None:
    ran = subprocess.run(
        [python, "-m", "modelguard", "scan", tiny_model, "-p", "no:squares", "-f", "json", "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "acme-squares" not in {plugin["name"] for plugin in json.loads(ran.stdout)["plugins"]}


@pytest.mark.parametrize(
    ("detector", "entry", "clash"),
    [
        ("square", "other", "detector square"),
        ("circle", "squares", "plugin squares"),
        ("format-integrity", "other", "detector format-integrity"),
        ("circle", "other", "rule prefix ACME"),
    ],
)
def test_two_plugins_with_one_name_are_an_error_naming_both(
    tmp_path: Path, tiny_model: Path, detector: str, entry: str, clash: str
) -> None:
    first = write_plugin(tmp_path / "a", "acme-squares", "1", "acme_squares", "square", "squares")
    second = write_plugin(tmp_path / "b", "evil-squares", "2", "evil_squares", detector, entry)
    python = laid_out(tmp_path / "env", first, second)
    ran = subprocess.run([python, "-m", "modelguard", "scan", tiny_model, "-q"], capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    line = ran.stderr.strip().splitlines()[-1]
    assert clash in line
    assert "evil-squares" in line
    assert ("modelguard-core" if detector == "format-integrity" else "acme-squares") in line
    assert ran.stdout == ""


def test_help_survives_a_clash(tmp_path: Path) -> None:
    first = write_plugin(tmp_path / "a", "acme-squares", "1", "acme_squares", "square", "squares")
    second = write_plugin(tmp_path / "b", "evil-squares", "2", "evil_squares", "square", "squares")
    python = laid_out(tmp_path / "env", first, second)
    ran = subprocess.run([python, "-m", "modelguard", "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "scan" in ran.stdout
    assert sys.executable not in ran.stdout


MODEL_PLUGIN = '''
from modelguard import Capability, Confidence, Detector, Finding, InputSpec, OutputSpec, Rule, Severity, hookimpl
from modelguard_runtime import ModelFacts, TorchFactory


class Tower(TorchFactory):
    """Two linear layers whose middle is a sine, as acme.txt beside the weights says."""

    id = "acme-tower"
    priority = 50

    def accepts(self, artifact, checkpoint, options):
        return checkpoint.format == "safetensors" and artifact.file("acme.txt") is not None

    def make(self, request):
        import torch
        from modelguard_runtime import TorchModel, load_weights

        class Sine(torch.nn.Module):
            def forward(self, x):
                return torch.sin(x)

        module = torch.nn.Sequential(torch.nn.Linear(6, 5), Sine(), torch.nn.Linear(5, 3))
        load_weights(module, request.checkpoint)
        takes = InputSpec("vector", (6,), "float32", "NF", 0.0, 1.0, None, None, {"all": "acme.txt"})
        return TorchModel(module, takes, OutputSpec("classifier", 3, "logits"), facts=ModelFacts(factory="acme tower"))


class Steep(Detector):
    """Finds inputs that an output depends on."""

    id = "steep"
    requires = frozenset({Capability.GRADIENTS})
    rules = (Rule("ACME-0002", "Steep", "a steep input", Severity.LOW, "An output depends on an input.", "Nothing to do."),)

    def detect(self, target, context):
        import torch

        x = torch.full((1, *target.model.input.shape), 0.5, requires_grad=True)
        (gradient,) = torch.autograd.grad(target.model(x)[0, 1], x)
        steepest = int(gradient.abs().argmax())
        yield Finding("ACME-0002", f"input {steepest} counts most", Confidence.HIGH, evidence={"input": steepest})
        context.summary(score=float(gradient.abs().max()))


@hookimpl
def modelguard_models():
    return [Tower]


@hookimpl
def modelguard_detectors():
    return [Steep]
'''


def test_a_plugin_brings_its_own_architecture_and_differentiates_it(tmp_path: Path) -> None:
    """With public names alone."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    plugin = tmp_path / "src"
    plugin.mkdir()
    (plugin / "pyproject.toml").write_text(PYPROJECT.format(name="acme-tower", version="1", module="acme_tower", entry="tower"))
    (plugin / "acme_tower.py").write_text(MODEL_PLUGIN)
    python = laid_out(tmp_path / "env", plugin)
    weights = {"0.weight": torch.zeros(5, 6), "0.bias": torch.zeros(5), "2.weight": torch.ones(3, 5), "2.bias": torch.zeros(3)}
    weights["0.weight"][:, 4] = 1
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    save_file(weights, artifact / "model.safetensors")
    (artifact / "acme.txt").write_text("a tower")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-m", "modelguard", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)

    shown = run("model", "artifact", "-q", "--threads", "1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[0] == "artifact: runs and can be differentiated; vector of shape 6 -> 3 classes"
    assert "acme tower" in shown.stdout
    scanned = run("scan", "artifact", "--detector", "steep", "-f", "json", "-q", "--threads", "1")
    outcome = json.loads(scanned.stdout)["outcomes"][0]
    assert (outcome["detector"], outcome["status"]) == ("steep", "completed")
    assert outcome["findings"][0]["evidence"] == {"input": 4}
    save_file({**weights, "2.bias": torch.zeros(4)}, artifact / "model.safetensors")
    refused = run("model", "artifact", "-q", "--threads", "1")
    assert refused.returncode == 3
    assert "Sequential: does not fit the checkpoint's tensors: 1 of another shape (2.bias is 4 instead of 3)" in refused.stdout
