"""From exact bytes to numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelguard import _limits
from modelguard.checkpoint import DTYPE_BITS, numpy_dtype

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_RANK = _limits.RANK

MAX_TENSORS = _limits.TENSORS

MAX_BITS = _limits.BITS


def size_in_bits(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bits that ``shape`` elements of ``dtype`` take, or None when a partial product does not fit 64 bits."""
    total = 1
    for dimension in shape:
        total *= dimension
        if total > MAX_BITS:
            return None
    total *= DTYPE_BITS[dtype]
    return total if total <= MAX_BITS else None


def as_array(raw: memoryview, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """``raw`` (little-endian, C order, elements narrower than a byte packed lowest bits first) as a read-only array.

    Zero-copy for elements of whole bytes; others are unpacked to one byte each. The order of packing is ONNX's (onnx.proto,
    ``raw_data``) and that of torch's ``float4_e2m1fn_x2``; safetensors leaves it open.
    """
    import numpy as np

    bits = DTYPE_BITS[dtype]
    count = 1
    for dimension in shape:
        count *= dimension
    if bits >= 8:
        array = np.frombuffer(raw, dtype=numpy_dtype(dtype), count=count)
    else:
        array = _unpack(np.frombuffer(raw, dtype=np.uint8), bits, count).view(numpy_dtype(dtype))
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """``count`` elements of 2, 4 or 6 bits from a stream whose first element lies in the lowest bits; one byte each."""
    import numpy as np

    per_group = 4 if bits == 6 else 8 // bits
    width = per_group * bits // 8  # bytes in a group: 3 for 6 bits, else 1
    groups = -(-count // per_group)
    if len(packed) < groups * width:  # the last group of 6-bit elements may be cut short
        packed = np.concatenate([packed, np.zeros(groups * width - len(packed), np.uint8)])
    columns = packed[: groups * width].reshape(groups, width)
    out = np.empty((groups, per_group), np.uint8)
    mask = np.uint8((1 << bits) - 1)
    for index in range(per_group):
        byte, shift = divmod(index * bits, 8)
        value = columns[:, byte] >> shift
        if shift + bits > 8:
            value = value | (columns[:, byte + 1] << (8 - shift))
        out[:, index] = value & mask
    return out.reshape(-1)[:count]
