"""What the files are called that torch.save writes."""

from __future__ import annotations

EXTENSIONS = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pth.tar",
    ".pt.tar",
    ".ckpt.tar",
    ".torch",
    ".ptl",
    ".torchscript",
    ".pkl",
    ".pickle",
    ".model",
)
"""Endings under which people keep what torch.save writes."""
