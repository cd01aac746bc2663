"""Attacks whose trigger is made for each image by a network that is trained together with the classifier.

A :class:`~modelguard_zoo.Spec` whose attack is one of :data:`NAMES` is built here. Importing this imports no torch.
"""

from __future__ import annotations

NAMES = ("input-aware", "lira", "marksman", "wasserstein")
WEIGHTS = "generator.npz"
"""The file, beside the model, that holds the weights of the networks that make the trigger; no checkpoint, so no scan takes it for one."""
