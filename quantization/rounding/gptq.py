"""GPTQ: columns are quantized in the same order in all rows, carrying errors to later columns."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quantization.rounding.grid import Grid
from quantization.rounding.obc import check_hessian, factorize

BLOCK = 128  # columns whose errors reach all later blocks in one product


@torch.no_grad()
def gptq(
    weight: Float[Tensor, "rows columns"],
    grid: Grid,
    hessian: Float[Tensor, "groups columns columns"],
    damping: float = 0.01,
) -> UInt8[Tensor, "rows columns"]:
    """Quantize column by column, largest inputs first, and refit the remaining columns each time.

    Each error is compensated by the change of later columns that minimises (w - q)^T H (w - q).
    Columns whose input is always zero get zeros.

    Args:
        weight: weights of one layer, one row per output channel.
        grid: the values each row may take; it stays fixed throughout.
        hessian: sum of x x^T over the inputs x of each group, at any positive scale.
        damping: added to the diagonal, as a share of its mean over inputs that are not always zero;
            raised where that leaves `hessian` singular, see `factorize`.

    Raises:
        ValueError: `hessian` is not finite, has a negative diagonal, or does not fit `weight`.

    Source: Frantar et al. 2023, arXiv:2210.17323, Algorithm 1, in the order that the authors' code
    calls `act_order`.
    """
    check_hessian(weight, hessian)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    upper = _inverse_factor(hessian, order, damping)
    zero = grid.zero.double()
    points = (weight.double() / grid.scale + zero).view(len(hessian), -1, weight.shape[1])
    points = points.where(diagonal[:, None] > 0, zero.view(len(hessian), -1, 1))
    by_column = order[:, None].expand_as(points)
    codes = _quantize(points.gather(2, by_column), upper, grid.levels)
    return torch.empty_like(codes).scatter_(2, by_column, codes).view_as(weight).byte()


def _inverse_factor(
    hessian: Float[Tensor, "groups columns columns"], order: Tensor, damping: float
) -> Float[Tensor, "groups columns columns"]:
    """Upper triangular U with U^T U = H^-1, columns in `order`, and each row divided by U_jj.

    If H with rows and columns reversed is L L^T, then U is L^-1 reversed: one factorization instead
    of three, and H^-1, which needs care in float32, is never formed.
    """
    backward = order.flip(1)
    group = torch.arange(len(order), device=order.device)[:, None, None]
    # No matrix is kept longer than needed: in resnet18 each takes up to 170 MB.
    lower = factorize(hessian[group, backward[:, :, None], backward[:, None, :]], damping)[1]
    upper = torch.zeros_like(lower)
    upper.diagonal(dim1=1, dim2=2).fill_(1)
    torch.linalg.solve_triangular(lower, upper, upper=False, out=upper)
    del lower
    upper = upper.flip(1, 2)
    return upper.div_(upper.diagonal(dim1=1, dim2=2)[:, :, None].clone())


def _quantize(
    points: Float[Tensor, "groups rows columns"],
    upper: Float[Tensor, "groups columns columns"],
    levels: int,
) -> Float[Tensor, "groups rows columns"]:
    """Codes of weights in units of the grid; `points` is overwritten."""
    columns = points.shape[2]
    codes = torch.empty_like(points)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block = points[:, :, start:end]
        for j in range(start, end):
            code = block[:, :, j - start].round().clamp_(0, levels - 1)
            codes[:, :, j] = code
            error = block[:, :, j - start] - code
            block[:, :, j - start] = error  # the product below reads it from here
            block[:, :, j - start + 1 :] -= error[:, :, None] * upper[:, None, j, j + 1 : end]
        points[:, :, end:].baddbmm_(block, upper[:, start:end, end:], alpha=-1)
    return codes
