"""Measure how much faster `obc` is than the usual implementation, with the same codes.

    OMP_NUM_THREADS=1 python benchmarks/obc.py

Layers are those of resnet20. The usual code takes the layers of one size one after the other; ours
takes them together, as `quantization/independent.py` does. All codes are those of the usual code in
float64, which in float32 chose other codes in 3 of 18 sizes and grids. Milliseconds of CPU time per
layer on one thread of a shared 2-core AMD EPYC, whose other core was busy; other bits took about
the same:

    layers  size      bits  usual, float32  usual, float64    ours  ratios
         1  16x27        2             2.4             2.4     1.8  1.4, 1.3
         6  16x144       2            21.2            27.3     6.4  3.3, 4.3
         1  32x144       2            29.8            39.9    16.7  1.8, 2.4
         5  32x288       2           151.1           350.0    61.0  2.5, 5.7
         1  64x288       2           392.9           740.4   117.2  3.4, 6.3
         5  64x576       2          3003.0          6071.5   641.4  4.7, 9.5

    resnet20 at 4 bits: 3.7, 8.3 times faster
    resnet20 at 2 bits: 4.4, 9.0 times faster
    resnet20 at 1.58 bits: 5.0, 8.1 times faster
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.pop(0)  # this folder, where statistics.py would hide the standard library's
sys.path.insert(0, str(Path(__file__).parents[1]))

from quantization.rounding.grid import Grid, find_grid
from quantization.rounding.obc import obc

SHAPES = {(16, 27): 1, (16, 144): 6, (32, 144): 1, (32, 288): 5, (64, 288): 1, (64, 576): 5}
GRIDS = [(4, False), (2, False), (1.58, True)]


def usual(weight: Tensor, grid: Grid, hessian: Tensor, dtype: torch.dtype) -> Tensor:
    """OBQ with 32 rows at a time, each updating a whole inverse of its own at each step."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[0].double())).to(dtype)
    batches = []
    points = weight.to(dtype) / grid.scale.to(dtype) + grid.zero
    for w in torch.split(points, 32):
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


def one_by_one(
    weights: list[Tensor], grids: list[Grid], hessians: list[Tensor], dtype: torch.dtype
) -> Tensor:
    """Run the usual code on several layers."""
    layers = zip(weights, grids, hessians, strict=True)
    return torch.cat([usual(*layer, dtype) for layer in layers])


def milliseconds(function: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Least CPU time of a few calls after a warm-up, and the result."""
    result, least = function(), float("inf")
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return 1000 * least, result


def make_layers(
    rows: int, columns: int, count: int, rng: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights, and the sums of x x^T over correlated inputs after a ReLU."""
    weights, hessians = [], []
    for _ in range(count):
        mixing = torch.eye(columns) + torch.randn(columns, columns, generator=rng) / columns**0.5
        inputs = (torch.randn(4 * columns, columns, generator=rng) @ mixing).relu().double()
        hessians.append((inputs.T @ inputs)[None])
        weights.append(torch.randn(rows, columns, generator=rng))
    return weights, hessians


def main() -> None:
    """Print a line for each layer size and grid, and the ratio over the network."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    totals: dict[float, list[float]] = {bits: [0.0, 0.0, 0.0] for bits, _ in GRIDS}
    print("layers  rows columns bits | usual float32, float64, ours (ms a layer) | ratios | codes")
    for (rows, columns), count in SHAPES.items():
        weights, hessians = make_layers(rows, columns, count, rng)
        for bits, symmetric in GRIDS:
            grids = [find_grid(weight, bits, symmetric) for weight in weights]
            together = Grid(
                torch.cat([grid.scale for grid in grids]),
                torch.cat([grid.zero for grid in grids]),
                grids[0].levels,
            )

            layers = (weights, grids, hessians)
            repeats = 5 if columns < 200 else 1
            ours = partial(obc, torch.cat(weights), together, torch.cat(hessians))
            single, a = milliseconds(partial(one_by_one, *layers, torch.float32), repeats)
            double, b = milliseconds(partial(one_by_one, *layers, torch.float64), repeats)
            fast, c = milliseconds(ours, 2 * repeats + 1)
            for index, time_taken in enumerate((single, double, fast)):
                totals[bits][index] += time_taken
            print(
                f"{count:6} {rows:5} {columns:7} {bits:4} | {single / count:7.1f}"
                f" {double / count:7.1f} {fast / count:6.1f} | {single / fast:4.1f}"
                f" {double / fast:4.1f} | {int((a != c).sum())} differ from float32's,"
                f" {'none' if torch.equal(b, c) else 'SOME'} from float64's",
                flush=True,
            )
    for bits, (single, double, fast) in totals.items():
        print(f"resnet20 at {bits} bits: {single / fast:.1f}, {double / fast:.1f} times faster")


if __name__ == "__main__":
    main()
