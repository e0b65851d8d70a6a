"""How much faster `obc` is than the usual implementation, in CPU time and with the same codes.

    OMP_NUM_THREADS=1 python benchmarks/obc.py

On 2 cores of a shared AMD EPYC, one thread, while other work ran, in milliseconds of CPU time, the
same to 10% for 4, 2 and 1.58 bits. The codes are those of the usual one in float64; in float32 it
chose otherwise in 5 of 18 layers. Small layers are bound by the number of operations a step, so the
gain there is what fewer operations give:

    layer    usual, float32  usual, float64   ours   ratios
    16x9                0.8             0.8    0.8   1.0, 1.0
    16x144               21              26     12   1.8, 2.2
    32x144               29              39     16   1.8, 2.4
    32x288              146             245     56   2.6, 4.4
    64x288              279             547     94   3.0, 5.8
    64x576            2,420           4,790    538   4.5, 8.9
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from quantization.grid import Grid, find_grid
from quantization.obc import obc

SHAPES = [(16, 9), (32, 144), (64, 288), (16, 144), (32, 288), (64, 576)]
GRIDS = [(4, False), (2, False), (1.58, True)]


def usual(weight: Tensor, grid: Grid, hessian: Tensor, dtype: torch.dtype) -> Tensor:
    """OBQ with 32 rows at a time, each updating all of an inverse of its own at each step."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[0].double())).to(dtype)
    batches = []
    points = weight.to(dtype) / grid.scale.to(dtype) + grid.zero
    for w in points.split(32):
        row, inverses = torch.arange(len(w)), inverse.repeat(len(w), 1, 1)
        codes, done = torch.zeros_like(w), torch.zeros_like(w, dtype=torch.bool)
        for _ in range(w.shape[1]):
            rounded = w.round().clamp(0, grid.levels - 1)
            square = (w - rounded).square().masked_fill_(done, 0)
            diagonal = inverses.diagonal(dim1=1, dim2=2)
            best = (square / diagonal).masked_fill_(done, torch.inf).argmin(1)
            outlier = (square > 0.25).any(1)
            j = torch.where(outlier, square.argmax(1), best)
            codes[row, j] = rounded[row, j]
            v = inverses[row, j] / diagonal[row, j].sqrt()[:, None]
            w -= v * ((w[row, j] - rounded[row, j]) / v[row, j])[:, None]
            inverses.baddbmm_(v[:, :, None], v[:, None, :], alpha=-1)  # in place, its fastest form
            done[row, j] = True
        batches.append(codes)
    return torch.cat(batches).byte()


def milliseconds(function: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Least CPU time of a few calls, after one that is not counted, and the result."""
    result, least = function(), float("inf")
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return 1000 * least, result


def main() -> None:
    """Print a line for each layer and grid."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    print("rows columns bits | usual float32, float64, ours (ms) | ratios | codes of float32, 64")
    for rows, columns in SHAPES:
        mixing = torch.eye(columns) + torch.randn(columns, columns, generator=rng) / columns**0.5
        inputs = (torch.randn(4 * columns, columns, generator=rng) @ mixing).relu().double()
        hessian, weight = (inputs.T @ inputs)[None], torch.randn(rows, columns, generator=rng)
        for bits, symmetric in GRIDS:
            grid = find_grid(weight, bits, symmetric)
            repeats = 10 if columns < 200 else 2 if columns < 500 else 1
            layer = (weight, grid, hessian)
            single, a = milliseconds(partial(usual, *layer, torch.float32), repeats)
            double, b = milliseconds(partial(usual, *layer, torch.float64), repeats)
            ours, c = milliseconds(partial(obc, *layer), 2 * repeats + 1)
            print(
                f"{rows:4} {columns:7} {bits:4} | {single:7.1f} {double:7.1f} {ours:6.1f}"
                f" | {single / ours:4.1f} {double / ours:4.1f}"
                f" | {int((a != c).sum())} differ, {'same' if torch.equal(b, c) else 'DIFFERENT'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
