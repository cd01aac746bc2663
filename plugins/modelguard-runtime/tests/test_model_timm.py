"""A folder with timm's config.json. timm itself imports torchvision, which not every machine has: where it is missing, a module of the
two functions that are called stands in for it, and what is tested is what modelguard makes of the configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from modelguard_runtime.testing import built
from safetensors.torch import save_file
from torch import nn

from modelguard import ModelError, Skip


def config(**changes: Any) -> dict[str, Any]:
    """What timm 1.0 writes beside its weights, for a network of 8 x 8 pixels and 4 classes."""
    pretrained = {
        "tag": "a1_in1k", "custom_load": False, "input_size": [3, 8, 8], "fixed_input_size": False, "interpolation": "bicubic",
        "crop_pct": 0.95, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 4, "first_conv": "conv1",
        "classifier": "fc",
    }  # fmt: skip
    return {
        "architecture": "tiny_net", "num_classes": 4, "num_features": 6, "global_pool": "avg", "pretrained_cfg": pretrained,
        "label_names": ["n01", "n02", "n03", "n04"],
    } | changes  # fmt: skip


class Net(nn.Module):
    def __init__(self, classes: int, embed_dim: int = 6) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, embed_dim, 3, bias=False), nn.BatchNorm2d(embed_dim), nn.ReLU()
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(embed_dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.global_pool(self.act1(self.bn1(self.conv1(x)))))  # type: ignore[no-any-return]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for timm; what its ``create_model`` was called with."""
    made: list[dict[str, Any]] = []
    stand_in = ModuleType("timm")

    def create_model(name: str, *, pretrained: bool, num_classes: int, **given: Any) -> nn.Module:
        made.append({"name": name, "pretrained": pretrained, "num_classes": num_classes, **given})
        return Net(num_classes, **given)

    stand_in.__version__ = "1.0.99"  # type: ignore[attr-defined]
    stand_in.is_model = lambda name: name == "tiny_net"  # type: ignore[attr-defined]
    stand_in.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    return made


def folder(path: Path, settings: dict[str, Any], module: nn.Module) -> Path:
    save_file(module.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture
def source() -> Net:
    torch.manual_seed(0)
    net = Net(4).eval()
    assert net.bn1.running_mean is not None
    net.bn1.running_mean.normal_()
    return net


def test_weights_classes_input_and_normalisation_come_from_the_folder(tmp_path: Path, calls: list[dict[str, Any]], source: Net) -> None:
    model = built(folder(tmp_path, config(), source))
    assert calls == [{"name": "tiny_net", "pretrained": False, "num_classes": 4}]
    assert (model.input.shape, model.input.low, model.input.high) == ((3, 8, 8), 0.0, 1.0)
    assert model.input.source["mean"] == "config.json (timm)"
    assert (model.output.classes, model.output.labels) == (4, ("n01", "n02", "n03", "n04"))
    assert model.describe()["factory"] == "timm 1.0.99, tiny_net"
    x = torch.rand(2, 3, 8, 8).requires_grad_()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(model(x), source((x - mean) / std))
    assert torch.autograd.grad(model(x).sum(), x)[0].abs().sum() > 0
    assert [layer.kind for layer in model.layers] == ["conv", "norm", "activation", "pool", "linear"]


def test_only_sizes_are_passed_on(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    given = {"embed_dim": 5, "checkpoint_path": "/etc/passwd", "norm_layer": "os.system", "pretrained_cfg_overlay": {"file": "x"}}
    built(folder(tmp_path, config(model_args=given), Net(4, 5)))
    assert calls == [{"name": "tiny_net", "pretrained": False, "num_classes": 4, "embed_dim": 5}]


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "local-dir:/etc", "../tiny_net", "no_such_net", "tiny_net" * 50])
def test_names_of_anything_but_an_architecture_are_not_followed(
    tmp_path: Path, calls: list[dict[str, Any]], source: Net, name: str
) -> None:
    with pytest.raises(Skip, match=r"timm 1\.0\.99 has no architecture") as caught:
        built(folder(tmp_path, config(architecture=name), source))
    assert calls == []
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 7}, r"timm tiny_net: does not fit the checkpoint's tensors: 2 of another shape \(fc.bias is 4 instead of 7"),
        ({"model_args": {"depth": 3}}, "timm tiny_net: cannot be built: .*unexpected keyword"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tmp_path: Path, calls: list[dict[str, Any]], source: Net, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        built(folder(tmp_path, config(**changes), source))


def test_malformed_settings_are_left_out(tmp_path: Path, calls: list[dict[str, Any]], source: Net) -> None:
    settings = config(label_names="n01", model_args=["depth"])
    settings["pretrained_cfg"] |= {"mean": ["x"], "std": None}
    model = built(folder(tmp_path, settings, source))
    assert (model.output.labels, model.input.mean, model.input.source["mean"]) == ((), None, "assumed")


def test_without_timm_the_reason_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Net) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(Skip, match="names a timm model, and timm is not installed: pip install timm"):
        built(folder(tmp_path, config(), source))


def test_a_timm_that_cannot_be_imported_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Net) -> None:
    """timm without the torchvision it needs."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "timm.py").write_text("import torchvision_of_tests\n")
    (tmp_path / "artifact").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(Skip, match="timm cannot be imported: No module named 'torchvision_of_tests'"):
        built(folder(tmp_path / "artifact", config(), source))


def test_the_library_itself(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm needs torchvision, which is not installed")
    torch.manual_seed(0)
    source = timm.create_model("resnet18", pretrained=False, num_classes=4).eval()
    settings = config(architecture="resnet18")
    settings["pretrained_cfg"] |= {"input_size": [3, 64, 64], "mean": [0.0] * 3, "std": [1.0] * 3}
    model = built(folder(tmp_path, settings, source))
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=1e-4)
