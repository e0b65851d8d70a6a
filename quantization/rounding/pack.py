"""Codes in as few bytes as they need: 8, 4, 3 or 2 bits each, or five ternary codes per byte.

Rows start on a byte of their own. The first code is in the lowest bits (in base 3, the lowest
digit) of the first byte, which is how ONNX packs INT4 and INT2.
"""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad

_POWERS_OF_3 = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8)  # 3^5 = 243 fits in a byte


def pack(codes: UInt8[Tensor, "rows columns"], levels: int) -> UInt8[Tensor, "rows bytes"]:
    """Pack codes 0 .. levels - 1 into bytes, on the CPU.

    Raises:
        ValueError: a code is too large for `levels`.
    """
    codes = codes.cpu()
    if (codes > levels - 1).any():  # 256 would wrap to 0 in uint8
        raise ValueError(f"Codes must be below {levels}, the number of levels, got {codes.max()}.")
    if levels == 3:
        digits = pad(codes, (0, -codes.shape[1] % 5)).reshape(len(codes), -1, 5)
        return (digits * _POWERS_OF_3).sum(2, dtype=torch.uint8)
    bits = np.unpackbits(codes.numpy()[..., None], axis=2, count=_width(levels), bitorder="little")
    return torch.from_numpy(np.packbits(bits.reshape(len(bits), -1), axis=1, bitorder="little"))


def unpack(
    packed: UInt8[Tensor, "rows bytes"], columns: int, levels: int
) -> UInt8[Tensor, "rows {columns}"]:
    """Undo `pack`; `columns` tells the codes from the padding after them."""
    if levels == 3:
        digits = packed[..., None] // _POWERS_OF_3 % 3
        return digits.flatten(1)[:, :columns]
    width = _width(levels)
    bits = np.unpackbits(packed.numpy(), axis=1, count=columns * width, bitorder="little")
    codes = np.packbits(bits.reshape(-1, columns, width), axis=2, bitorder="little")
    return torch.from_numpy(codes[..., 0])


def _width(levels: int) -> int:
    """Bits per code, for a power of two."""
    return levels.bit_length() - 1
