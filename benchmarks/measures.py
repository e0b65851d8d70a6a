"""How much faster are measures of all targets at once than a loop over targets, for the same bits?

    OMP_NUM_THREADS=1 nice python -m benchmarks.measures

Every attack on every variant, and on every half of the shadows, is measured by its AUC and TPRs.
On one thread of a shared 2-core EPYC:

    targets x examples      2 x 600       8 x 600       32 x 2,000      64 x 20,000
      AUC              0.5 -> 0.5 ms  1.9 -> 1.2 ms  20 -> 16 ms      350 -> 380 ms
      TPR at 1% FPR    1.0 -> 0.6 ms  3.8 -> 1.3 ms  40 -> 16 ms      840 -> 400 ms
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from attacks.metrics.measures import area, tail_rate
from attacks.metrics.roc import share_below

SETTINGS = (2, 600), (8, 600), (32, 2000), (64, 20000)  # targets, examples
FPR = 0.01


def loop_area(scores: Tensor, members: Tensor) -> Tensor:
    """AUC of every target, from the share of the other side below each of its examples."""
    shares = torch.empty(scores.shape, dtype=torch.float64)
    for row, inside, line in zip(scores, members, shares, strict=True):
        line[inside] = share_below(row[~inside].sort().values, row[inside])
        line[~inside] = 1 - share_below(row[inside].sort().values, row[~inside])
    return (shares * members).sum(1) / members.sum(1)


def batch_area(scores: Tensor, members: Tensor) -> Tensor:
    """The same of all targets at once."""
    return area(scores, members).values


def loop_tail_rate(scores: Tensor, members: Tensor) -> Tensor:
    """TPR of every target at its own threshold; the slope takes two levels more."""
    rates = []
    for level in (FPR, 2 * FPR, FPR / 2):
        rows = zip(scores, members, strict=True)
        accused = torch.stack([_exceed(row, row[~inside], level) for row, inside in rows])
        rates.append((accused * members).sum(1) / members.sum(1))
    return rates[0]


def batch_tail_rate(scores: Tensor, members: Tensor) -> Tensor:
    """The same of all targets at once."""
    return tail_rate(scores, members, FPR).values


def _exceed(scores: Tensor, known: Tensor, level: float) -> Tensor:
    known = known.sort().values
    at_most = torch.searchsorted(known, scores, right=True)
    tied = at_most - torch.searchsorted(known, scores)
    above = len(known) - at_most
    return ((level * (len(known) + 1) - above.double()) / (tied + 1)).clamp(0, 1)


def seconds(measure: Callable[[Tensor, Tensor], Tensor], scores: Tensor, members: Tensor) -> float:
    """CPU seconds per call, over calls that take half a second together."""
    begun, calls = time.process_time(), 0
    while time.process_time() < begun + 0.5:
        measure(scores, members)
        calls += 1
    return (time.process_time() - begun) / calls


def main() -> None:
    """Print a line per setting and measure; the loop is the oracle."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for targets, examples in SETTINGS:
        members = torch.rand(targets, examples, generator=generator).argsort(1) < examples // 2
        scores = torch.randn(targets, examples, generator=generator).double() + members
        for loop, batch in ((loop_area, batch_area), (loop_tail_rate, batch_tail_rate)):
            assert torch.equal(batch(scores, members), loop(scores, members))
            slow, fast = seconds(loop, scores, members), seconds(batch, scores, members)
            print(
                f"{targets} targets x {examples}, {loop.__name__.removeprefix('loop_')}: "
                f"{1e3 * slow:.2f} -> {1e3 * fast:.2f} ms, {slow / fast:.1f} times as fast"
            )


if __name__ == "__main__":
    main()
