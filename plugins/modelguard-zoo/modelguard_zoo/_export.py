"""A trained image model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from modelguard_zoo._data import Dataset


def export(model: nn.Module, data: Dataset, path: Path) -> None:
    """Write ``model``, which takes images as those of ``data``, to ``path``."""
    import warnings

    import onnx
    import torch

    example = torch.from_numpy(data.x_test[:2]).float()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but ten times faster on models this small and needs no further package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    # Says which raw values the graph takes (onnx/docs/MetadataProps.md), so that a detector without samples searches the right domain.
    exported = onnx.load(path)
    onnx.helper.set_model_props(exported, {"Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(exported, path)
