"""Builds the zoo's modules for weights without a graph: what `--model repair_models:NAME` names. Their BatchNorm is not folded away."""

from __future__ import annotations

from torch import nn


def _made(dataset: str, arch: str) -> nn.Module:
    from modelguard_zoo._data import load
    from modelguard_zoo._train import new_model

    return new_model(load(dataset), arch, 0)


def digits_resnet8() -> nn.Module:
    return _made("digits", "resnet8")


def mnist_resnet8() -> nn.Module:
    return _made("mnist", "resnet8")
