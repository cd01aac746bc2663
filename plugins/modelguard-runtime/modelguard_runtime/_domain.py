"""The raw input domain of a model, and what the graph itself takes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modelguard import InputSpec, TextSpec

if TYPE_CHECKING:
    import numpy.typing as npt

Tensor = torch.Tensor
FREE = 32
"""What a free dimension is when the model is probed."""


class Domain:
    """Canonical raw inputs of ``spec`` on ``device``: made at random, and turned into what the graph takes.

    Of token ids, what ``text`` knows holds: padding is never drawn, and no input is longer than the model takes.
    """

    def __init__(self, spec: InputSpec, device: torch.device | str = "cpu", *, text: TextSpec | None = None) -> None:
        self.spec, self.device = spec, torch.device(device)
        self._pad = None if text is None else text.pad
        self._free = FREE if text is None or text.length is None else min(FREE, text.length)
        self._mean, self._std = (self._per_channel(value) for value in (spec.mean, spec.std))

    def enter(self, x: Tensor) -> Tensor:
        """Canonical raw (N, ...) -> what the graph takes."""
        spec = self.spec
        x = x.to(self.device)
        if spec.kind == "text":
            return x.long()
        dtype = getattr(torch, spec.dtype)
        x = x.float()
        if not dtype.is_floating_point:
            # The graph takes whole pixels. Rounding is straight through, so that gradients reach x; the graph's own cast to
            # float then finds a float, which is the same number.
            x = x + (x.round() - x).detach()
            dtype = torch.float32
        if self._mean is not None:
            x = x - self._mean
        if self._std is not None:
            x = x / self._std
        if spec.layout == "NHWC":
            x = x.permute(0, 2, 3, 1)
        elif spec.layout == "NHW":
            x = x.squeeze(1)
        return x.to(dtype)

    def array(self, x: Tensor) -> npt.NDArray[Any]:
        """Canonical raw ``x`` as the array the graph itself takes: normalised, in its layout and dtype."""
        value = self.enter(x).detach().cpu().numpy()
        return np.ascontiguousarray(value.astype(np.dtype(self.spec.dtype)))

    def sizes(self, length: int | None = None) -> list[int]:
        """Sizes of one input; free dimensions are :data:`FREE`, or what texts may have of tokens, or ``length``."""
        return [(length or self._free) if size < 0 else size for size in self.spec.shape]

    def random(self, n: int, *, seed: int, length: int | None = None) -> Tensor:
        """``n`` random canonical raw inputs, uniform over the range, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        spec, shape = self.spec, self.sizes(length)
        if spec.kind == "text":
            # Token 0 is often padding, and attention to it would be masked.
            ids = torch.randint(min(1, int(spec.high)), int(spec.high) + 1, (n, *shape), generator=generator)
            return ids if self._pad is None else torch.where(ids == self._pad, 1 if self._pad == int(spec.high) else int(spec.high), ids)
        return spec.low + (spec.high - spec.low) * torch.rand((n, *shape), generator=generator)

    def _per_channel(self, values: Sequence[float] | None) -> Tensor | None:
        if values is None:
            return None
        shape = (-1, 1, 1) if self.spec.kind == "image" else (-1,)
        return torch.tensor(values, dtype=torch.float32, device=self.device).reshape(shape)
