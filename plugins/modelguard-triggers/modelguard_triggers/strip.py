"""STRIP: does the trigger decide whatever it stands on? (Gao et al., ACSAC 2019)

Clean images are laid over a stamped one. Where the trigger is input-agnostic the model keeps naming one class, and the entropy of what
it says stays low; without a trigger, or where the trigger does not survive that, it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from modelguard import RunnableModel

Images = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
OVERLAYS = 20
"""Clean images that are laid over each: as many as the Adversarial Robustness Toolbox takes (its ``STRIPMixin``)."""
IMAGES = 24
"""Images of either kind."""
REJECTED = 0.01
"""Part of clean images whose entropy may lie below the boundary (section 4): the quantile of a normal fitted to theirs."""
QUANTILE = -2.326348


def entropies(model: RunnableModel, images: Images, overlays: Images) -> Floats:
    """(N,) the mean entropy in nats of the model's answers to each of ``images`` (N, C, H, W) with each of ``overlays`` (M, C, H, W)
    added to it (equation 4), as far as a pixel goes: the authors' code adds and saturates, which leaves a bright trigger whole."""
    added = np.minimum(images[:, None] + overlays[None] - model.input.low, model.input.high)  # (N, M, C, H, W)
    logits = model.predict(added.reshape(-1, *images.shape[1:]).astype(np.float32)).astype(np.float64)
    logs = logits - logits.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    each = -(np.exp(logs) * logs).sum(1)
    return np.asarray(each.reshape(len(images), len(overlays)).mean(1))


def strip(model: RunnableModel, clean: Images, stamped: Images, overlays: Images) -> npt.NDArray[np.bool_]:
    """(N,) which of the ``stamped`` images (N, C, H, W) lie below the boundary that ``clean`` ones (M, C, H, W) set."""
    usual = entropies(model, clean, overlays)
    boundary = usual.mean() + QUANTILE * usual.std()
    return np.asarray(entropies(model, stamped, overlays) < boundary)
