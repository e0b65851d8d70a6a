"""The values that an activation may take: one step and one zero point per tensor."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from quantization.rounding.grid import NORM

PERCENTS = range(100, 0, -1)  # of the full range, to which an end is shrunk
SWEEPS = 3  # over both ends of a range


class ActivationGrid(NamedTuple):
    """Code c stands for (c - zero) * scale, c = 0 .. levels - 1.

    Attributes:
        scale: distance between neighbouring values, a float32 number.
        zero: the code of 0.0.
        levels: number of codes.
    """

    scale: float
    zero: int
    levels: int


def codes_of(values: Float[Tensor, "..."], grid: ActivationGrid) -> Float[Tensor, "..."]:
    """The code of each value, as a float: nearest, ties to even, and the end of the range beyond.

    It divides by the step, as ONNX's QuantizeLinear does: to multiply by its inverse would give
    another code where a value lies between two.
    """
    scale = torch.tensor(grid.scale, dtype=torch.float32, device=values.device)
    return ((values.float() / scale).round() + grid.zero).clamp(0, grid.levels - 1)


def fake_quantize(values: Float[Tensor, "..."], grid: ActivationGrid) -> Float[Tensor, "..."]:
    """Replace each value by the one that its code stands for; NaN stays NaN."""
    scale = torch.tensor(grid.scale, dtype=torch.float32, device=values.device)
    return ((codes_of(values, grid) - grid.zero) * scale).to(values.dtype)


def find_range(
    values: Float[Tensor, " values"], bits: int, counts: Int64[Tensor, " values"] | None = None
) -> ActivationGrid:
    """Fit an asymmetric grid to the values of one tensor.

    Of all ranges that contain 0 and end at a whole percentage of the smallest and the largest
    value, it looks for the one with the smallest L_2.4 rounding error: first both ends are shrunk
    alike, then one after the other. Behind a ReLU there is one end, and the search is complete. The
    norm is that of the weights: squares would clip more of the few large values, to which the
    layers behind respond most.

    Args:
        values: all values of the tensor, or the different ones among them.
        bits: 8 or 4.
        counts: how often each of the values occurs; once by default.

    Returns:
        The grid. Values that are all 0 have step 1.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not values.numel():
        raise ValueError("An activation without values has no range.")
    if broken := int((~values.isfinite()).sum()):
        raise ValueError(
            f"{broken} of {values.numel()} activations are not finite, so no range fits them."
        )
    values, levels = values.float(), 2**bits
    weights = torch.ones(()) if counts is None else counts
    weights = weights.to(values.device, torch.float64)
    lowest, highest = min(values.min().item(), 0.0), max(values.max().item(), 0.0)

    def error(low: int, high: int) -> float:
        grid = make_grid(low / 100 * lowest, high / 100 * highest, levels)
        distance = fake_quantize(values, grid).sub_(values).abs_()
        # exp(p log x) = x^p, also at 0, in a fifth of the time that `pow` takes
        return (distance.log_().mul_(NORM).exp_() * weights).sum().item()

    low, high = min(((shrunk, shrunk) for shrunk in PERCENTS), key=lambda ends: error(*ends))
    for _ in range(SWEEPS if lowest < 0 < highest else 0):
        before = low, high
        low = min((low, *PERCENTS), key=lambda end: error(end, high))
        high = min((high, *PERCENTS), key=lambda end: error(low, end))
        if (low, high) == before:
            break
    return make_grid(low / 100 * lowest, high / 100 * highest, levels)


def make_grid(low: float, high: float, levels: int) -> ActivationGrid:
    """The grid from `low`, at most 0, to `high`, at least 0, moved so that 0 is one of its values.

    A range too small for float32's normal numbers has step 1, as that of zeros has.
    """
    scale = torch.tensor((high - low) / (levels - 1), dtype=torch.float32).item()
    if scale < torch.finfo(torch.float32).tiny:
        return ActivationGrid(1.0, 0, levels)
    return ActivationGrid(scale, min(max(round(-low / scale), 0), levels - 1), levels)
