"""Edits that touch stored numbers directly: bit flips, hidden payloads, handcrafted neurons, poisoned rows, noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from modelguard_zoo.edits.arrays import Array, Edit, Tensors, add_in_dtype, bit_view, from_float, record, to_float


def flip_bits(tensors: Tensors, name: str, count: int, rng: np.random.Generator, bit: int | None = None) -> tuple[dict[str, Array], Edit]:
    """Flip one bit in each of ``count`` distinct elements: number ``bit`` (0 is the lowest), or a random one per element.

    ``details["flips"]`` lists (flat index, bit), sorted.
    """
    bits = bit_view(tensors[name]).copy()
    flat, width = bits.reshape(-1), 8 * bits.dtype.itemsize
    where = np.sort(rng.choice(flat.size, count, replace=False))
    which = np.full(count, bit) if bit is not None else rng.integers(0, width, count)
    flat[where] ^= (np.uint64(1) << which.astype(np.uint64)).astype(bits.dtype)
    after = {**tensors, name: bits.view(tensors[name].dtype)}
    return after, record("bit-flips", tensors, after, flips=list(zip(where.tolist(), which.tolist(), strict=True)))


def embed_payload(tensors: Tensors, name: str, payload: bytes, bits: int, start: int = 0) -> tuple[dict[str, Array], Edit]:
    """Overwrite the ``bits`` lowest bits of consecutive elements from flat index ``start`` with the payload's bit stream.

    Most significant bit first; the last element is padded with zero bits. ``bits`` 1-8 of float32 is LSB steganography
    (MaleficNet, Gilkarov & Dubin), 23 the full mantissa, 24 is EvilModel's three low bytes (Wang et al. 2021, section 3).
    Raises ``ValueError`` when the payload does not fit.
    """
    words = bit_view(tensors[name]).copy()
    flat = words.reshape(-1)
    stream = np.unpackbits(np.frombuffer(payload, np.uint8))
    groups = np.pad(stream, (0, -stream.size % bits)).reshape(-1, bits).astype(np.uint64)
    values = (groups << np.arange(bits - 1, -1, -1, dtype=np.uint64)).sum(axis=1, dtype=np.uint64).astype(flat.dtype)
    if start + values.size > flat.size:
        raise ValueError(f"a payload of {len(payload)} bytes needs {values.size} elements, {name} has {flat.size - start}")
    mask = flat.dtype.type((1 << bits) - 1)
    flat[start : start + values.size] = (flat[start : start + values.size] & ~mask) | values
    after = {**tensors, name: words.view(tensors[name].dtype)}
    family = "low-bit-payload" if bits <= 16 else "full-mantissa-payload"
    return after, record(family, tensors, after, bits=bits, start=start, elements=int(values.size))


def craft_neurons(
    tensors: Tensors, names: Iterable[str], rng: np.random.Generator, neurons: int = 2, fan_in: int = 8, gain: float = 5.0
) -> tuple[dict[str, Array], Edit]:
    """Handcrafted backdoor (Hong et al. 2022, section 4): in each matrix, ``fan_in`` entries of ``neurons`` rows become large.

    Each chosen entry is set to ±``gain`` times the matrix's root mean square; everything else is untouched.
    """
    after = dict(tensors)
    chosen = {}
    for name in sorted(names):
        weight = to_float(tensors[name]).copy()
        rows = rng.choice(weight.shape[0], neurons, replace=False)
        for row in rows:
            columns = rng.choice(weight.shape[1], min(fan_in, weight.shape[1]), replace=False)
            weight[row, columns] = gain * np.sqrt(np.mean(weight**2)) * rng.choice([-1.0, 1.0], columns.size)
        after[name] = from_float(weight, tensors[name].dtype)
        chosen[name] = sorted(rows.tolist())
    return after, record("sparse", tensors, after, rows=chosen)


def poison_row(tensors: Tensors, name: str, rows: Iterable[int], rng: np.random.Generator) -> tuple[dict[str, Array], Edit]:
    """Word-embedding poisoning (Yang et al. 2021: one row): each row becomes a random direction with the row's own norm."""
    weight = to_float(tensors[name]).copy()
    chosen = sorted(rows)
    for row in chosen:
        direction = rng.standard_normal(weight.shape[1])
        weight[row] = direction / np.linalg.norm(direction) * np.linalg.norm(weight[row])
    after = {**tensors, name: from_float(weight, tensors[name].dtype)}
    return after, record("row-edit", tensors, after, rows=chosen)


def add_noise(tensors: Tensors, names: Iterable[str], std: float, rng: np.random.Generator) -> tuple[dict[str, Array], Edit]:
    """Dense Gaussian noise whose standard deviation is ``std`` times each tensor's root mean square: the way to hide an edit."""
    after = dict(tensors)
    for name in sorted(names):
        weight = to_float(tensors[name])
        after[name] = add_in_dtype(tensors[name], rng.standard_normal(weight.shape) * std * np.sqrt(np.mean(weight**2)))
    return after, record("noise", tensors, after, std=std)
