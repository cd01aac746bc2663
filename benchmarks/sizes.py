"""Image classifiers of real sizes for benchmarks/scan.py, each built once into a folder of its own.

The zoo trains those of up to 40 M multiply-adds. Of the ResNet-18 only the last layer is fitted, by ridge regression on what random
convolutions see, and the ResNet-50 has random weights and is asked about its own answers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from modelguard_zoo import Spec, build_model
from modelguard_zoo._data import load
from modelguard_zoo._spec import pairs
from torch import Tensor, nn

CLASSES = 1000
"""Of ImageNet."""


def trained(home: Path, dataset: str, arch: str, attack: str | None = None, **options: Any) -> Path:
    """A model of the zoo."""
    return build_model(Spec(dataset, arch, 0, attack, pairs(options)), home).path


class Scale(nn.Module):
    """Raw pixels to about zero mean and unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 120.0) / 64.0


class Block(nn.Module):
    """A residual block, plain or bottleneck (He et al. 2016, figure 5)."""

    def __init__(self, inner: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.outer = 4 * width if bottleneck else width
        plan = [(inner, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            plan = [(inner, width, 1, 1), (width, width, 3, stride), (width, self.outer, 1, 1)]
        parts: list[nn.Module] = []
        for a, b, kernel, step in plan:
            parts += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*parts[:-1])
        projected = nn.Sequential(nn.Conv2d(inner, self.outer, 1, stride, bias=False), nn.BatchNorm2d(self.outer))
        self.way = nn.Identity() if stride == 1 and inner == self.outer else projected

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.way(x))


def stages(depths: tuple[int, ...], kernel: int, stride: int, *, bottleneck: bool) -> list[nn.Module]:
    """All of a ResNet but its last layer; widths 64, 128, 256, 512."""
    layers: list[nn.Module] = [Scale(), nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2, 1)] if stride > 1 else []
    inner = 64
    for stage, depth in enumerate(depths):
        for index in range(depth):
            block = Block(inner, 64 << stage, 2 if stage and not index else 1, bottleneck)
            layers.append(block)
            inner = block.outer
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


@torch.inference_mode()
def features(body: nn.Module, images: np.ndarray[Any, Any]) -> Tensor:
    """(N, D) what ``body`` makes of uint8 images (N, C, H, W)."""
    return torch.cat([body(part.float()) for part in torch.split(torch.from_numpy(images), 100)])


def resnet18(home: Path) -> Path:
    """ResNet-18 for CIFAR-10 (He et al. 2016; first layer 3 x 3, no pooling behind it): 556 M multiply-adds."""
    folder = home / "cifar10-resnet18-head"
    if folder.is_dir():
        return folder
    torch.manual_seed(0)
    data, body = load("cifar10"), nn.Sequential(*stages((2, 2, 2, 2), 3, 1, bottleneck=False)).eval()
    learned, seen = features(body, data.x_train[:4000]), features(body, data.x_test)
    mean, std = learned.mean(0), learned.std(0) + 1e-6
    x = (learned - mean) / std  # (N, D)
    wanted = nn.functional.one_hot(torch.from_numpy(data.y_train[:4000]), data.classes).float()  # (N, K)
    head = torch.linalg.solve(x.T @ x + 30 * torch.eye(x.shape[1]), x.T @ (wanted - wanted.mean(0)))  # (D, K)
    last = nn.Linear(x.shape[1], data.classes).requires_grad_(requires_grad=False)
    last.weight.copy_(10 * (head / std[:, None]).T)
    last.bias.copy_(10 * (wanted.mean(0) - mean / std @ head))
    right = np.flatnonzero(last(seen).argmax(1).numpy() == data.y_test)
    return write(folder, nn.Sequential(body, last), data.x_test[right[:400]], data.y_test[right[:400]])


def resnet50(home: Path) -> Path:
    """ResNet-50 for 224 x 224 pixels and 1000 classes (He et al. 2016, table 1): 4.1 G multiply-adds."""
    folder = home / "imagenet-resnet50-random"
    if folder.is_dir():
        return folder
    torch.manual_seed(0)
    body = nn.Sequential(*stages((3, 4, 6, 3), 7, 2, bottleneck=True)).eval()
    coarse = np.random.default_rng(0).integers(0, 256, (200, 3, 14, 14), np.uint8)
    images = np.repeat(np.repeat(coarse, 16, 2), 16, 3)
    seen = features(body, images)
    last = nn.Linear(seen.shape[1], CLASSES).requires_grad_(requires_grad=False)
    # What random layers make of images differs little from one to another: centred and widened, so that the answers differ.
    last.weight.div_(seen.std(0).mean())
    last.bias.copy_(-(last.weight @ seen.mean(0)))
    return write(folder, nn.Sequential(body, last), images, last(seen).argmax(1).numpy())


def write(folder: Path, model: nn.Module, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Path:
    """The model as ONNX with its samples, as the zoo writes them."""
    part = folder.with_name(f".{folder.name}")
    part.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval(), (torch.from_numpy(images[:2]).float(),), str(part / "model.onnx"), dynamo=False, opset_version=17,
            input_names=["input"], output_names=["logits"], dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    exported = onnx.load(part / "model.onnx")
    onnx.helper.set_model_props(exported, {"Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(exported, part / "model.onnx")
    np.savez_compressed(part / "samples.npz", inputs=images, labels=labels)
    return part.replace(folder)
