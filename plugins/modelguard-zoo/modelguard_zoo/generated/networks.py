"""The network that makes a trigger: a convolutional encoder and decoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 16


class Generator(nn.Module):
    """(N, C, H, W) pixels in 0..255 -> (N, ``out``, H, W) in -1..1, H and W divisible by 4.

    The autoencoder of LIRA (Doan et al. 2021) with two of its four levels, for images as small as 8 x 8. With ``classes`` it is Marksman's
    conditional one (Doan, Lao and Li 2022): an embedding of the wanted class is added at the bottleneck.
    """

    def __init__(self, channels: int, out: int, classes: int = 0) -> None:
        super().__init__()
        self.down = nn.Sequential(_stage(channels, WIDTH, 2), _stage(WIDTH, 2 * WIDTH, 2))
        self.wanted = nn.Embedding(classes, 2 * WIDTH) if classes else None
        self.middle = _stage(2 * WIDTH, 2 * WIDTH, 1)
        self.up = _stage(2 * WIDTH, WIDTH, 1)
        self.last = nn.Conv2d(WIDTH, out, 3, padding=1)

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        hidden = self.down(x / 127.5 - 1)  # (N, 2 * WIDTH, H / 4, W / 4)
        if self.wanted is not None and wanted is not None:
            hidden = hidden + self.wanted(wanted)[:, :, None, None]
        hidden = self.up(F.interpolate(self.middle(hidden), scale_factor=2))  # (N, WIDTH, H / 2, W / 2)
        made: Tensor = self.last(F.interpolate(hidden, scale_factor=2)).tanh()
        return made


def _stage(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.ReLU())
