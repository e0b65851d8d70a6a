"""Optimal Brain Compression: the weights of each row are quantized one by one, cheapest first."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import threshold

from quantization.rounding.grid import Grid

BLOCK = 48  # columns between two updates of the inverses; 64 and 96 took 0-15% longer
SPACE = 2**23  # numbers (64 MiB) in the inverses of one batch of rows, on CPUs: their cache
GPU_SPACE = 2**30  # the same on GPUs at most (8 GiB)
SINGULAR = 1e-10  # smallest share of a column's square that no combination of others explains
FIRST_RESCUE = 1e-8  # of the mean diagonal; ten times as much at every further attempt


@torch.no_grad()
def obc(
    weight: Float[Tensor, "rows columns"],
    grid: Grid,
    hessian: Float[Tensor, "groups columns columns"],
    damping: float = 0.0,
) -> UInt8[Tensor, "rows columns"]:
    """Quantize greedily, and let the other weights of a row compensate for each error.

    At each step a row quantizes the weight that adds least to (w - q)^T H (w - q) once the rest is
    refitted. While compensation has pushed a weight more than half a step off its nearest value,
    the row takes the weight with the largest error instead. Exact zeros, and columns whose input
    is always zero, stay zero and compensate nothing. Apart from ties, codes are those of the plain
    algorithm, which updates a row's whole inverse at each step.

    In float64, because the plain loop in float32 chose 8 to 26 other codes in 5 of 18 random layers
    (`benchmarks/obc.py`); it would save a quarter of the time at 16x144 and 40% at 64x288. As many
    rows go together as `batch_space` allows.

    Args:
        weight: weights of one layer, one row per output channel.
        grid: the values each row may take; it stays fixed throughout.
        hessian: sum of x x^T over the inputs x of each group, at any positive scale.
        damping: added to the diagonal, as a share of its mean over inputs that are not always zero.
            Where that leaves `hessian` singular, 1e-8, 1e-7, ... are tried; so the scale of the
            inputs never matters, unlike in the authors' code, which adds 1.

    Raises:
        ValueError: `hessian` is not finite, has a negative diagonal, or does not fit `weight`.

    Source: Frantar & Alistarh 2022, arXiv:2208.11580, Algorithm 3 with Equation 7 (OBQ), and the
    outlier rule of Section 5.
    """
    check_hessian(weight, hessian)
    rows, columns = weight.shape
    damped, factor = factorize(hessian, damping)
    inverses = torch.cholesky_inverse(factor)
    group = torch.arange(rows, device=weight.device) // (rows // len(hessian))
    dead = (hessian.diagonal(dim1=1, dim2=2) == 0)[group]
    zero = (weight == 0) | dead
    codes = grid.zero.repeat(1, columns)
    points = (weight.double() / grid.scale + grid.zero).where(~zero, grid.zero.double())
    sparse = (zero & ~dead).any(1)
    together = max(1, batch_space(weight.device) // columns**2)
    for alike, have_own in ((~sparse, False), (sparse & ~zero.all(1), True)):
        positions = alike.nonzero()[:, 0]
        for start in range(0, len(positions), together):
            batch = positions[start : start + together]
            owner = group[batch]
            if have_own:
                own = _without(damped[owner], zero[batch])
                each = torch.arange(len(own), device=weight.device)
                quantized = _quantize(points[batch], own, each, grid.levels)
            else:  # rows of one group share an inverse until their choices differ
                quantized = _quantize(points[batch], inverses, owner, grid.levels)
            codes[batch] = quantized.byte()
    return codes


def batch_space(device: torch.device) -> int:
    """Numbers that the inverses of one batch of rows may take.

    Beyond 4,096 columns a single inverse exceeds a CPU's. A GPU waits for the launches of a greedy
    step, 18 for all rows together, so that more rows take hardly longer. A batch gets an eighth of
    its free memory, or of this process's share if that is less: rows with zeros of their own take
    four copies in `_without`, which leaves half. A power of two, because the size of a batch may
    decide which kernel adds up, and thus the last bits: a little more or less free memory must not.
    """
    if device.type != "cuda":
        return SPACE
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept unused
    # torch 2.6 sets a share, and does not tell which
    find_share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
    numbers = int(min(free, find_share(device) * total)) // (8 * 8)  # 8 bytes each
    return min(GPU_SPACE, 1 << max(0, numbers.bit_length() - 1))


def check_hessian(
    weight: Float[Tensor, "rows columns"], hessian: Float[Tensor, "groups columns columns"]
) -> None:
    """Raise ValueError unless `hessian` can be a sum of x x^T over the inputs of `weight`."""
    (rows, columns), groups = weight.shape, len(hessian)
    if hessian.shape[1:] != (columns, columns) or not groups or rows % groups:
        raise ValueError(
            f"`hessian` must be groups x {columns} x {columns} for {rows} rows of {columns}"
            f" weights, with groups a divisor of {rows}, got {' x '.join(map(str, hessian.shape))}."
            " Sum x x^T over the flattened inputs of each group of channels."
        )
    broken = int((~hessian.isfinite()).sum())
    if broken:
        raise ValueError(
            f"`hessian` must be finite, got {broken} of {hessian.numel()} entries that are not. An"
            " input of the layer overflowed: look for NaN in the images and in earlier weights."
        )
    lowest = hessian.diagonal(dim1=1, dim2=2).min().item()
    if lowest < 0:
        raise ValueError(
            f"`hessian` must have a diagonal of squares, got {lowest:g}. Sum x x^T in float32 or"
            " wider, and subtract no mean afterwards."
        )


def factorize(
    hessian: Float[Tensor, "groups columns columns"], damping: float
) -> tuple[Float[Tensor, "groups columns columns"], Float[Tensor, "groups columns columns"]]:
    """`hessian` in float64, damped until it is safely positive definite, and its Cholesky factor.

    Inputs that are always zero get 1 on the diagonal. A factor with a pivot below `SINGULAR` counts
    as a failure: rank-deficient matrices often factor by luck, and the inverse is rounding errors.
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2).double()
    dead = diagonal == 0
    mean = diagonal.sum(1) / (~dead).sum(1).clamp(min=1)  # dead inputs' 1 is arbitrary
    share = torch.full_like(mean, damping)
    while True:
        damped = hessian.to(torch.float64, copy=True)  # up to 170 MB in resnet18
        damped.diagonal(dim1=1, dim2=2).add_(dead + (share * mean)[:, None])
        factor, info = torch.linalg.cholesky_ex(damped)
        pivots = factor.diagonal(dim1=1, dim2=2).square() / damped.diagonal(dim1=1, dim2=2)
        failed = (info != 0) | ~(pivots.amin(1) >= SINGULAR)
        if not failed.any():
            return damped, factor
        share = torch.where(failed, (10 * share).clamp(min=FIRST_RESCUE), share)


def _without(
    hessian: Float[Tensor, "rows columns columns"], zero: Tensor
) -> Float[Tensor, "rows columns columns"]:
    """Each row's inverse, with the weights that stay zero decoupled from the rest."""
    kept = ~zero
    eye = torch.eye(zero.shape[1], dtype=hessian.dtype, device=hessian.device)
    coupled = torch.where(kept[:, :, None] & kept[:, None, :], hessian, eye)
    return torch.cholesky_inverse(torch.linalg.cholesky(coupled))


@torch.inference_mode()  # without it small layers take a quarter longer
def _quantize(
    points: Float[Tensor, "rows columns"],
    inverse: Float[Tensor, "inverses columns columns"],
    owner: Int64[Tensor, " rows"],
    levels: int,
) -> Float[Tensor, "rows columns"]:
    """Codes of weights in units of the grid; `owner` is the inverse that each row starts from.

    Eliminating a column subtracts v v^T from the inverse, v = H^-1_j / sqrt(H^-1_jj). The v of a
    block are kept and subtracted in one product, and only from the columns that remain.
    """
    rows, remaining = points.shape
    codes = torch.empty_like(points)
    left = torch.arange(remaining, device=points.device).expand(rows, -1)
    diagonal = inverse.diagonal(dim1=1, dim2=2)[owner]
    # Allocated once: with fresh memory for each block a call at 16x144 had 600 page faults.
    work = points.new_empty((3 + min(BLOCK, remaining)) * points.numel())
    space = points.new_empty(rows * max(0, remaining - BLOCK) ** 2)
    begins: Sequence[int] = owner.tolist()
    while True:
        size = min(BLOCK, remaining)
        state = work[: (3 + size) * rows * remaining].view(3 + size, rows, remaining)
        state[2] = diagonal
        order, values = _greedy_block(points, state, inverse, owner, levels)
        codes.scatter_(1, left.gather(1, order), values)
        remaining -= size
        if not remaining:
            return codes
        keep = state[2].isinf().byte().argsort(dim=1, stable=True)[:, :remaining]
        diagonal, *_ = kept = state[2:].gather(2, keep.expand(1 + size, -1, -1))
        left, points = left.gather(1, keep), points.gather(1, keep)
        inverse = _eliminate(inverse, begins, keep, kept[1:].transpose(0, 1), space)
        owner, begins = torch.arange(rows, device=points.device), range(rows)


def _greedy_block(
    points: Float[Tensor, "rows columns"],
    state: Float[Tensor, "channels rows columns"],
    inverse: Float[Tensor, "inverses columns columns"],
    owner: Int64[Tensor, " rows"],
    levels: int,
) -> tuple[Int64[Tensor, "rows steps"], Float[Tensor, "rows steps"]]:
    """Quantize one weight of each row per channel of `state` after the third, in place.

    `state` holds rounded points, their errors, the inverse's diagonal (-inf where done), and then
    the v. A step has 17 operations; in small layers calling them takes most of the time.
    """
    rounded, error, diagonal, *factors = state.unbind(0)
    by_row = state[3:].transpose(0, 1)
    row = owner[:, None]
    tiny = points.new_full((), 1e-60)  # an error of 0 comes first, but after outliers
    order, values = [], []
    for k, factor in enumerate(factors):
        torch.round(points, out=rounded).clamp_(0, levels - 1)
        torch.sub(points, rounded, out=error)
        square = torch.addcmul(tiny, error, error)
        outlier = threshold(square, 0.25, 0)
        # Cheapest is largest H^-1_jj / e^2; the second term puts the largest outlier above all.
        j = torch.div(diagonal, square).add_(outlier, alpha=1e200).argmax(1, keepdim=True)
        at = state[: 3 + k].gather(2, j.expand(3 + k, -1, -1))
        column = inverse[row, j].baddbmm_(at[3:].permute(1, 2, 0), by_row[:, :k], alpha=-1)
        scale = at[2].rsqrt()
        torch.mul(column[:, 0], scale, out=factor)
        points.addcmul_(factor, at[1] * scale, value=-1)
        diagonal.addcmul_(factor, factor, value=-1).scatter_(1, j, -torch.inf)
        order.append(j)
        values.append(at[0])
    return torch.cat(order, 1), torch.cat(values, 1)


def _eliminate(
    inverse: Float[Tensor, "inverses columns columns"],
    begins: Sequence[int],
    keep: Int64[Tensor, "rows kept"],
    factors: Float[Tensor, "rows steps kept"],
    space: Float[Tensor, " numbers"],
) -> Float[Tensor, "rows kept kept"]:
    """Each row's inverse after a block, on the columns to `keep`; row r has inverse `begins[r]`.

    It moves forward in `space`, where `inverse` may lie: row r ends before old row r + 1 begins.
    Going row by row stays in the cache: at 64x576 gathering took 0.2 ms per row, against 3 ms for
    all rows at once.
    """
    rows, kept = keep.shape
    after = space[: rows * kept**2].view(rows, kept, kept)
    for old, new, k, v in zip(begins, *(x.unbind(0) for x in (after, keep, factors)), strict=True):
        torch.gather(inverse[old].index_select(0, k), 1, k.expand(kept, -1), out=new)
        new.addmm_(v.mT, v, alpha=-1)
    return after
