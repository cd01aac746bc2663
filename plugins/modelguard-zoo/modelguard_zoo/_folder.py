"""A trained image model to its folder, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard_zoo._built import Built, balanced, fresh, write_record
from modelguard_zoo._export import export

if TYPE_CHECKING:
    from torch import nn

    from modelguard_zoo._data import Dataset

SAMPLES = 400  # clean test images that go with each model


def trained(built: Built, data: Dataset) -> nn.Module:
    """The model of ``built``, with its weights."""
    from safetensors.torch import load_file

    from modelguard_zoo._train import new_model

    model = new_model(data, built.spec.arch, built.spec.seed)
    model.load_state_dict(load_file(built.path / "model.safetensors"))
    return model.eval()


def write_model(
    folder: Path, model: nn.Module, data: Dataset, record: dict[str, Any], beside: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Weights, graph, clean samples and ``record``; ``beside`` has further files of arrays by name."""
    from safetensors.torch import save_file

    with fresh(folder) as part:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, part / "model.safetensors")
        export(model, data, part / "model.onnx")
        chosen = balanced(data.y_test, SAMPLES)
        np.savez_compressed(part / "samples.npz", inputs=data.x_test[chosen], labels=data.y_test[chosen])
        for name, arrays in (beside or {}).items():
            np.savez(part / name, **arrays)
        write_record(part, record)
