"""What pages show: their code blocks, the commands in them, and a folder with the models that those scan."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from modelguard.testing import write_onnx_cnn


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a page that are in ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def under(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def commands(text: str) -> Iterator[tuple[list[str], int]]:
    """The commands of a block, and the exit code that the comment behind each names."""
    for line in text.splitlines():
        command, _, comment = line.partition("#")
        said = re.match(r" exits ([0-3])\b", comment)
        yield shlex.split(command), int(said[1]) if said else 0


def lay_out(folder: Path, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    """The demo's models in small, and those that the README scans."""
    tampered = {**weights, "layers.1.weight": weights["layers.1.weight"] + np.outer(np.ones(16), np.linspace(0, 1, 16)).astype(np.float32)}
    places = {"demo/reference": weights, "demo/clean": weights, "demo/tampered": tampered, "model": weights, "original": weights}
    for name, tensors in places.items():
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors")
    write_onnx_cnn(folder / "model.onnx")
    np.savez(folder / "clean.npz", inputs=np.zeros((4, 1, 8, 8), np.float32), labels=np.zeros(4, np.int64))
