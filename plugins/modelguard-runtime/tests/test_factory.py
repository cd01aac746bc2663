"""A factory of somebody else's: the one of the README, and what it gets by subclassing."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from modelguard_runtime import TorchModel
from safetensors.torch import save_file

from modelguard import BuildRequest, ModelError, ModelFactory, ModelOptions, Samples
from modelguard.testing import open_target

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def tower() -> ModelFactory:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    module = ModuleType("acme_tower")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    (factory,) = module.modelguard_models()
    made = factory()
    assert isinstance(made, ModelFactory)
    return made


def request_for(folder: Path, samples: Samples | None = None, options: ModelOptions | None = None, last: int = 3) -> BuildRequest:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, last))
    save_file(layers.state_dict(), folder / "model.safetensors")
    (folder / "acme.txt").write_text("a tower")
    target = open_target(folder)
    return BuildRequest(target.artifact, target.checkpoints[0], samples=samples, options=options or ModelOptions(device="cpu"))


def test_it_accepts_what_it_says_and_builds_it(tmp_path: Path, tower: ModelFactory) -> None:
    request = request_for(tmp_path)
    assert tower.accepts(request.artifact, request.checkpoint, request.options)
    model = tower.build(request)
    assert model(torch.rand(4, 6)).shape == (4, 3)
    assert model.describe()["factory"] == "acme tower"


def test_it_is_held_to_what_every_model_is_held_to(tmp_path: Path, tower: ModelFactory) -> None:
    samples = Samples(torch.rand(30, 6).numpy(), None, "x.npz", "")
    model = tower.build(request_for(tmp_path, samples, ModelOptions(device="cpu", precision="bfloat16", threads=1)))
    facts = model.describe()
    assert facts["agreement"]["count"] == 30
    assert facts["precision"]["computed_in"] == "bfloat16"
    assert isinstance(model, TorchModel)
    assert model.facts.forward_only is None


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tower: ModelFactory) -> None:
    with pytest.raises(ModelError, match="does not fit the checkpoint's tensors"):
        tower.build(request_for(tmp_path, last=4))
