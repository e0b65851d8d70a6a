"""Updates of a federation as they travel: rounded tensor by tensor, and counted in bytes."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from quantization.rounding.grid import TERNARY, Bits, dequantize, find_grid
from quantization.rounding.nearest import nearest

FULL = "full"  # an update at the precision of training
METHODS = ("qsgd", "nearest")
BITS: tuple[Bits, ...] = (8, 4, 2, TERNARY)
UPDATES = (FULL, *(f"{method}-w{bits:g}" for method in METHODS for bits in BITS))
UNROUNDED = 32  # bits of a number of an update at full precision
SCALE, PER_BYTE = 4, 5  # bytes of a float32, and ternary codes in a byte


class Rounding(NamedTuple):
    """What each tensor of an update is rounded to; `bits` is 32 for none."""

    method: str
    bits: Bits


def parse_update(name: str) -> Rounding:
    """Read the name of a rounding, such as `qsgd-w4`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in UPDATES:
        raise ValueError(f"An update must be one of {', '.join(UPDATES)}, got `{name}`.")
    method, _, bits = name.partition("-w")
    return Rounding(method, next((known for known in BITS if f"{known:g}" == bits), UNROUNDED))


def positive_levels(bits: Bits) -> int:
    """Number of values above 0: 127, 7 and 1 for 8, 4 and 2 bits, and 1 for ternary."""
    return 1 if bits == TERNARY else 2 ** (int(bits) - 1) - 1


def qsgd(
    values: Float[Tensor, " numbers"],
    scale: Float[Tensor, ""],
    count: int,
    uniforms: Float[Tensor, " numbers"],
) -> Float[Tensor, " numbers"]:
    """Round each value at random to a neighbour on a grid around 0, so that its mean stays.

    Args:
        values: numbers of magnitude up to `scale`.
        scale: the largest value of the grid; with 0, all values are 0.
        count: number of values of the grid above 0.
        uniforms: a random number in [0, 1) for each value.

    Returns:
        sign(v) * scale * l / count, where l is one of the two whole numbers around
        a = count * |v| / scale, the upper one with chance a - floor(a).

    Source: Alistarh et al. 2017, arXiv:1610.02132, section 3.1, with the norm as `scale`.
    """
    steps = count * values.abs() / torch.where(scale > 0, scale, 1.0)
    # floor(a + u) is the upper one with just that chance; a sum may round up past the grid's end
    chosen = (steps + uniforms).floor().clamp(max=count)
    return values.sign() * chosen * (scale / count)


def round_tensor(
    tensor: Float[Tensor, "..."], rounding: Rounding, generator: torch.Generator
) -> Float[Tensor, "..."]:
    """Round one tensor of an update; the result is in float32.

    QSGD's grid ends at the tensor's Euclidean norm, as published. The ternary one ends at its
    largest magnitude, as TernGrad's does (Wen et al. 2017, arXiv:1705.07878, without its clipping,
    which is biased): at one level, the norm would leave one number in hundreds. Both keep the mean.

    Args:
        tensor: finite numbers.
        rounding: how.
        generator: random numbers of QSGD, on the CPU, so that every device rounds alike.
    """
    values = tensor.float().flatten()
    if rounding.method == FULL or not len(values):
        return tensor.float()
    if rounding.method == "nearest":
        grid = find_grid(values[None], rounding.bits, symmetric=True)  # one row of a matrix
        return dequantize(nearest(values[None], grid), grid).view(tensor.shape)
    scale = values.abs().max() if rounding.bits == TERNARY else values.norm()
    uniforms = torch.rand(len(values), generator=generator).to(values.device)
    return qsgd(values, scale, positive_levels(rounding.bits), uniforms).view(tensor.shape)


def update_bytes(sizes: Iterable[int], rounding: Rounding) -> int:
    """Bytes of one client's upload: the packed codes of each tensor, and its float32 scale.

    Args:
        sizes: number of numbers in each tensor.
        rounding: how they are rounded.
    """
    return sum(_tensor_bytes(size, rounding.bits) for size in sizes)


def _tensor_bytes(size: int, bits: Bits) -> int:
    if bits == UNROUNDED:
        return SCALE * size
    packed = -(-size // PER_BYTE) if bits == TERNARY else -(-size * int(bits) // 8)
    return packed + SCALE if size else 0
