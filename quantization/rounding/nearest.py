"""Round every weight to the nearest value of its grid."""

from jaxtyping import Float, UInt8
from torch import Tensor

from quantization.rounding.grid import Grid


def nearest(weight: Float[Tensor, "rows columns"], grid: Grid) -> UInt8[Tensor, "rows columns"]:
    """Codes within scale / 2 of `weight`, or at the end of the grid for weights beyond it."""
    return ((weight / grid.scale).round() + grid.zero).clamp(0, grid.levels - 1).byte()
