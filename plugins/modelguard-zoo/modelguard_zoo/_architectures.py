"""Small image classifiers. Each is built as ``NAME(channels, size, classes)`` and takes raw pixels: it normalises inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Normalised(nn.Module):
    """``body`` behind the map from raw 0..255 pixels to zero mean and unit variance, part of the graph on purpose."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body((x - self.mean) / self.std)
        return logits


class GlobalPool(nn.Module):
    """(N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def mlp(channels: int, size: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size * size, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def cnn(channels: int, size: int, classes: int) -> nn.Module:
    """The shape of the BadNets MNIST model: two convolutions, two dense layers (Gu et al. 2017, table 1)."""
    reduced = size // 4
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * reduced * reduced, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def _conv_bn(inner: int, outer: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
    )


def vgg(channels: int, size: int, classes: int, width: int = 16) -> nn.Module:
    """VGG-like: pairs of 3 x 3 convolutions, halving by pooling (Simonyan & Zisserman 2015)."""
    layers: list[nn.Module] = []
    inner = channels
    for outer in (width, 2 * width, 4 * width) if size > 8 else (width, 2 * width):
        layers += [_conv_bn(inner, outer), _conv_bn(outer, outer), nn.MaxPool2d(2)]
        inner = outer
    reduced = size // (8 if size > 8 else 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner * reduced * reduced, 64), nn.ReLU(), nn.Linear(64, classes))


class Residual(nn.Module):
    """A basic residual block (He et al. 2016), projection shortcut where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(inner, outer, stride)
        self.second = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer))
        same = stride == 1 and inner == outer
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet8(channels: int, size: int, classes: int) -> nn.Module:
    """ResNet-8: one residual block a stage, widths 16, 32, 64."""
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(_conv_bn(channels, 16), *blocks, GlobalPool(), nn.Linear(64, classes))


def mobilenet(channels: int, size: int, classes: int) -> nn.Module:
    """MobileNet-like: depthwise-separable convolutions (Howard et al. 2017)."""
    layers: list[nn.Module] = [_conv_bn(channels, 16)]
    inner = 16
    for outer, stride in ((32, 2 if size > 8 else 1), (48, 1), (64, 2), (96, 1)):
        layers += [_conv_bn(inner, inner, stride, groups=inner), _conv_bn(inner, outer, kernel=1)]
        inner = outer
    return nn.Sequential(*layers, GlobalPool(), nn.Linear(inner, classes))


class Attention(nn.Module):
    """Multi-head self-attention over (N, T, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5, dim=-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        return mixed


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) with mean pooling instead of a class token."""

    def __init__(self, channels: int, size: int, classes: int, dim: int = 48, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        patch = 2 if size <= 8 else 4
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2, dim) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


ARCHITECTURES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "vgg": vgg,
    "vgg-wide": partial(vgg, width=32),
    "resnet8": resnet8,
    "mobilenet": mobilenet,
    "vit": ViT,
}
