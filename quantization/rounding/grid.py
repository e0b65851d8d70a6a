"""The values that each row of a weight matrix may take: one step and one zero point per row."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Bits = int | float  # a run-time type checker does not accept the int 2 as a float
TERNARY: Bits = 1.58  # log2(3), rounded the way everybody writes it
LEVELS: dict[Bits, int] = {8: 256, 4: 16, 3: 8, 2: 4, TERNARY: 3}

NORM = 2.4  # of the error that the search minimises; a smaller norm would clip more outliers
SHRINK_STEPS = 80  # of 1% each, from the full range down to a fifth of it


class Grid(NamedTuple):
    """Code c of a row stands for (c - zero) * scale, c = 0 .. levels - 1.

    Attributes:
        scale: distance between neighbouring values, in units of the weights.
        zero: the code of 0.0.
        levels: number of codes.
    """

    scale: Float[Tensor, "rows 1"]
    zero: UInt8[Tensor, "rows 1"]
    levels: int


def find_grid(weight: Float[Tensor, "rows columns"], bits: Bits, symmetric: bool) -> Grid:
    """Fit a grid to each row that minimises the error of nearest rounding.

    The range that contains all weights and 0 is shrunk in steps of 1%, and the range with the
    smallest L_2.4 rounding error is kept. Symmetric ternary grids use their closed form instead.

    Args:
        weight: weights of one layer, one row per output channel.
        bits: 8, 4, 3, 2 or 1.58.
        symmetric: centre the grid on 0 (codes -n/2 .. n/2 - 1) instead of fitting both ends.

    Returns:
        One step and one zero point per row. An all-zero row has step 1.

    Raises:
        ValueError: a weight is not finite, or no grid of `bits` exists.

    Source: the search of BRECQ (Li et al. 2021, arXiv:2102.05426), over ranges that include 0.
    """
    count = levels(bits)
    broken = int((~weight.isfinite()).sum())
    if broken:
        raise ValueError(
            f"{broken} of {weight.numel()} weights are not finite, so no grid fits them. The"
            " training diverged: lower the learning rate and train again."
        )
    weight = weight.float()
    if symmetric and count == 3:
        scale = _optimal_ternary_scale(weight)
        return Grid(scale, torch.ones_like(scale, dtype=torch.uint8), count)
    if symmetric:
        widest = _usable(weight.abs().amax(1, keepdim=True) / ((count - 1) // 2))
        zero = torch.full_like(widest, count // 2)
    else:
        low = weight.amin(1, keepdim=True).clamp(max=0) / (count - 1)
        high = weight.amax(1, keepdim=True).clamp(min=0) / (count - 1)
        widest = _usable(high - low)
        zero = ((count - 1) * (-low / widest)).round()  # the same for every shrunk range
    return Grid(widest * _best_shrink(weight / widest, zero, count), zero.byte(), count)


def widest_ternary(weight: Float[Tensor, "rows columns"]) -> Grid:
    """The grid of 0 and each row's largest magnitude: the fastest to find, for a rehearsal."""
    scale = _usable(weight.float().abs().amax(1, keepdim=True))
    return Grid(scale, torch.ones_like(scale, dtype=torch.uint8), 3)


def dequantize(codes: UInt8[Tensor, "rows columns"], grid: Grid) -> Float[Tensor, "rows columns"]:
    """The float32 weights that codes stand for; files and evaluation use exactly these."""
    return (codes.float() - grid.zero) * grid.scale


def _best_shrink(
    steps: Float[Tensor, "rows columns"], zero: Float[Tensor, "rows 1"], count: int
) -> Float[Tensor, "rows 1"]:
    """The factor on each row's widest step that has the smallest error; `steps` are in that step.

    Candidates are tried one at a time and in place: all at once would take 80 copies of the layer.
    """
    best = torch.full_like(zero, torch.inf)
    factor = torch.ones_like(zero)
    for percent in range(100, 100 - SHRINK_STEPS, -1):
        shrink = percent / 100
        rounded = (steps / shrink).round_().clamp_(-zero, count - 1 - zero).mul_(shrink)
        distance = rounded.sub_(steps).abs_()
        # exp(p log x) = x^p, also at 0, in a fifth of the time that `pow` takes.
        error = distance.log_().mul_(NORM).exp_().sum(1, keepdim=True)
        factor = torch.where(error < best, shrink, factor)
        best = torch.minimum(error, best)
    return factor


def _optimal_ternary_scale(weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows 1"]:
    """The s >= 0 that minimises min over t in {-1, 0, 1} of sum (w - s t)^2, exactly.

    If the k largest |w| are kept and c_k is their sum, s = c_k / k is best and lowers the error by
    c_k^2 / k; so one pass over the sorted row finds the best k.
    """
    largest_first = weight.abs().sort(dim=1, descending=True).values
    sums = largest_first.double().cumsum(1)
    means = sums / torch.arange(1, sums.shape[1] + 1, device=sums.device)
    kept = (sums * means).argmax(1, keepdim=True)
    return _usable(means.gather(1, kept).float())


def _usable(step: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
    """The step, or 1 where an all-zero (pruned) row would divide by 0."""
    return torch.where(step > 0, step, 1.0)


def levels(bits: Bits) -> int:
    """Number of values that a weight of `bits` can take.

    Raises:
        ValueError: there is no grid of `bits`.
    """
    if bits not in LEVELS:
        raise ValueError(f"Bits must be one of {', '.join(map(str, LEVELS))}, got {bits:g}.")
    return LEVELS[bits]
