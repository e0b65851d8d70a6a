"""Who was in a Fisher diagonal, told by it and by the network it was measured on.

Elastic weight consolidation keeps F = (1 / n) sum_i m_i g_i^2, where g_i is the gradient of
log p(y) on example i, y being the class the network predicts, and m_i is 1 for the n examples that
F was measured on. Who holds the network can compute g_i of any example without its label. F tells
of m: every entry of n F is at least that of g_i^2 where m_i is 1; and for given candidates, F is
linear in m, with one equation per weight.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from continual.fisher import squared_slopes

MOST = 10_000  # candidates, whose products with one another take 0.8 GB
VALUES = 2**27  # of the equations of all candidates: 1 GB
ROUNDING = 1e-6  # of an entry: float32 sums of up to thousands of squares, and their difference


class Measured(NamedTuple):
    """A Fisher diagonal, as one holds it who holds what consolidates before and after a stage.

    Attributes:
        fisher: the diagonal, by the name of a parameter.
        total: sum of the diagonals so far, which bounds its rounding.
        examples: number of examples that it was measured on.
    """

    fisher: Mapping[str, Tensor]
    total: Mapping[str, Tensor]
    examples: int


class Told(NamedTuple):
    """What a Fisher diagonal tells of candidates.

    Attributes:
        excess: log of the largest g^2 / (n F) over all entries, in nats; never above 0, but for
            rounding, for examples that it was measured on.
        solved: about 1 for these and 0 for others; None if it was not asked for.
    """

    excess: Float64[Tensor, " images"]
    solved: Float64[Tensor, " images"] | None


def tell(
    network: nn.Module,
    images: Float[Tensor, "images ..."],
    measured: Measured,
    scale: float,
    solve: bool,
) -> Told:
    """Compare the squared gradients of candidates with a Fisher diagonal.

    Entries are left out where the sum of the diagonals is so small that float32 lost its digits.
    Each equation is divided by that sum, by which it is rounded. If all equations take more
    than `VALUES` numbers, evenly spaced ones are taken.

    Args:
        network: the network that the diagonal was measured on.
        images: the candidates.
        measured: the diagonal.
        scale: factor of the logits, as in the measurement.
        solve: whether to solve for who was measured, too.

    Raises:
        ValueError: there are more candidates than `MOST` to solve for.
    """
    if solve and len(images) > MOST:
        raise ValueError(
            f"A Fisher diagonal is solved for {MOST:,} candidates at most, got {len(images):,}. "
            "Take fewer."
        )
    total, fisher = (_flat(part, 0).double() for part in (measured.total, measured.fisher))
    known = torch.finfo(torch.float32)
    used = (total > known.tiny / known.eps).nonzero().flatten()
    bound = measured.examples * (fisher[used] + ROUNDING * total[used])
    places = torch.linspace(0, len(used) - 1, min(len(used), VALUES // max(1, len(images))))
    some = used[places.long().to(used.device)]
    excess, rows = [], []
    for squares in squared_slopes(network, images, scale):
        flat = _flat(squares, 1).double()
        largest = (flat[:, used] / bound).amax(1) if len(used) else flat.new_zeros(len(flat))
        excess.append(largest.clamp_min(known.tiny).log())
        if solve:
            rows.append(flat[:, some] / total[some])
    if not solve:
        return Told(torch.cat(excess), None)
    right = measured.examples * fisher[some] / total[some]
    return Told(torch.cat(excess), solve_sum(torch.cat(rows), right, ROUNDING * measured.examples))


def solve_sum(
    rows: Float64[Tensor, "images equations"],
    right: Float64[Tensor, " equations"],
    error: float,
    prior: float = 0.5,
) -> Float64[Tensor, " images"]:
    """Solve for the rows that add up to a given sum.

    The most likely m if each is `prior` give or take 1/2, and the sum is wrong by `error`: rows
    that are lost in the error stay at `prior`. Columns of the system, which differ by many orders
    of magnitude, are scaled to norm 1 before it is solved.

    Args:
        rows: one per candidate.
        right: the sum.
        error: standard deviation of each of its entries.
        prior: share of the candidates that is expected in the sum.
    """
    gram = rows @ rows.T
    moment = rows @ (right - prior * rows.sum(0))
    gram.diagonal().add_(max(4 * error**2, torch.finfo(gram.dtype).tiny))
    norms = gram.diagonal().sqrt()
    beyond: Tensor = torch.linalg.solve(gram / norms / norms[:, None], moment / norms) / norms
    return prior + beyond


def _flat(parts: Mapping[str, Tensor], start: int) -> Tensor:
    """All parameters in one row, or one row per image if they begin with axis 1."""
    return torch.cat([part.flatten(start) for part in parts.values()], -1)
