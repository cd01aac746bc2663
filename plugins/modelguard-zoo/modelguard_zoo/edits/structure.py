"""Edits of a model's structure: the same weights in another order, or mixed with another model's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modelguard_zoo.edits.arrays import Array, Edit, Tensors, from_float, is_float, record, to_float


def permute(tensors: Tensors, axes: Mapping[str, int], rng: np.random.Generator) -> tuple[dict[str, Array], Edit]:
    """One random permutation of units, applied along the given axis of each named tensor.

    With ``{c_fc.weight: 1, c_fc.bias: 0, c_proj.weight: 0}`` the function is preserved; with one tensor it is destroyed.
    """
    sizes = {tensors[name].shape[axis] for name, axis in axes.items()}
    if len(sizes) != 1:
        raise ValueError(f"the axes to permute have different lengths: {sorted(sizes)}")
    order = rng.permutation(sizes.pop())
    after = dict(tensors)
    for name, axis in axes.items():
        after[name] = np.take(tensors[name], order, axis=axis)
    return after, record("permuted", tensors, after, order=order.tolist())


def merge(tensors: Tensors, other: Tensors, weight: float = 0.5) -> tuple[dict[str, Array], Edit]:
    """Linear merge (1 − weight)·W + weight·W_other of every floating-point tensor both models have in the same shape."""
    after = dict(tensors)
    for name, array in tensors.items():
        if name in other and other[name].shape == array.shape and is_float(array):
            mixed = (1 - weight) * to_float(array) + weight * to_float(other[name])
            after[name] = from_float(mixed, array.dtype)
    return after, record("merge", tensors, after, weight=weight)
