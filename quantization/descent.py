"""AdaRound without a training loop: each weight is rounded up or down by steepest descent."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from quantization.gram import Quadratic, grouped_product
from quantization.grid import Grid, dequantize
from quantization.nearest import nearest

ROUND = 8  # steps between looking which rows are finished


def descend(
    weight: Float[Tensor, "rows columns"], grid: Grid, quadratic: Quadratic
) -> UInt8[Tensor, "rows columns"]:
    """Round every weight up or down so that no single other choice lowers the squared error.

    Each row starts at its nearest codes. All rows at once, the one weight whose other rounding
    lowers the row's error most is rounded the other way, until none does.

    Source: the problem is that of Nagel et al. 2020, arXiv:2004.10568, equation 20, with the
    inputs of equation 25; steepest descent instead of a relaxation.
    """
    floor = (weight / grid.scale).floor() + grid.zero
    down, up = (steps.clamp(0, grid.levels - 1) for steps in (floor, floor + 1))
    codes = nearest(weight, grid)
    state = _State.start(codes, (down + up - codes - codes) * grid.scale, grid, quadratic)
    flips = torch.zeros_like(codes, dtype=torch.bool)
    for _ in range(0, 2 * weight.shape[1], ROUND):  # rounding errors could go round in circles
        for _ in range(ROUND):
            column, better = state.flip()
            flips[state.rows[:, None], column] ^= better
        state = state.only(better.flatten())
        if not len(state.rows):
            break
    return torch.where(flips, down + up - codes, codes).byte()


class _State(NamedTuple):
    """Rows that are not finished."""

    rows: Int64[Tensor, " rows"]  # which they are
    step: Float[Tensor, "rows columns"]  # how far each weight moves when it is rounded otherwise
    slope: Float[Tensor, "rows columns"]  # half the error's derivative
    curvature: Float[Tensor, "rows columns"]
    tolerance: Float[Tensor, "rows 1"]
    group: Int64[Tensor, "rows 1"]
    gram: Float[Tensor, "groups columns columns"]

    @classmethod
    def start(cls, codes: Tensor, step: Tensor, grid: Grid, quadratic: Quadratic) -> "_State":
        gram = quadratic.gram
        rows = torch.arange(len(codes), device=codes.device)
        group = (rows // (len(codes) // len(gram)))[:, None]
        slope = grouped_product(dequantize(codes, grid), gram) - quadratic.cross
        curvature = gram.diagonal(dim1=1, dim2=2)[group.flatten()]
        tolerance = 1e-6 * (step.square() * curvature).amax(1, keepdim=True)
        return cls(rows, step, slope, curvature, tolerance, group, gram)

    def flip(self) -> tuple[Int64[Tensor, "rows 1"], Bool[Tensor, "rows 1"]]:
        """Round one weight of each row the other way, where that lowers the error."""
        change = self.step * (2 * self.slope + self.step * self.curvature)
        best, column = change.min(1, keepdim=True)
        better = best < -self.tolerance
        moved = self.step.gather(1, column) * better
        self.slope.addcmul_(moved, self.gram[self.group, column].squeeze(1))
        self.step.scatter_add_(1, column, -2 * moved)
        return column, better

    def only(self, keep: Bool[Tensor, " rows"]) -> "_State":
        """Some of the rows."""
        rows, step, slope, curvature, tolerance, group = (some[keep] for some in self[:-1])
        return _State(rows, step, slope, curvature, tolerance, group, self.gram)
