"""Which examples an attack exposes, and what becomes of them from one precision to another."""

from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import spearmanr
from torch import Tensor


def exposure(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Float[Tensor, " examples"]:
    """How exposed each example is where it is a member: above which share of the non-members.

    At 0.99 an attacker who accuses it wrongly accuses 1% of the others of the same model too; 0.5
    is no exposure.

    Args:
        scores: higher means likelier a member.
        members: the truth.

    Returns:
        Mean over the targets that trained on the example, a tie counts half; NaN where none did.
    """
    total = torch.zeros(scores.shape[1], dtype=torch.float64)
    for row, inside in zip(scores, members, strict=True):
        outside = row[~inside].sort().values
        below = torch.searchsorted(outside, row)
        at_most = torch.searchsorted(outside, row, right=True)
        total += ((below + at_most).double() / (2 * len(outside))).where(inside, 0)
    return total / members.sum(0)  # 0 / 0 is NaN


class Change(NamedTuple):
    """How exposures differ from full precision's.

    Attributes:
        safer: examples whose exposure is lower by more than `MOVED`.
        exposed: those whose exposure is higher by more.
        correlation: Spearman's, over the examples that some target trained on; NaN where all of
            them are exposed alike, as by a gap attack on a model that is always right.
    """

    safer: int
    exposed: int
    correlation: float


MOVED = 0.1


def change(before: Float[Tensor, " examples"], after: Float[Tensor, " examples"]) -> Change:
    """Count the examples that become safer and more exposed; unknown ones are left out."""
    known = ~(before.isnan() | after.isnan())
    moved = (after - before)[known]
    varied = all(len(torch.unique(some[known])) > 1 for some in (before, after))
    correlation = float(spearmanr(before[known], after[known]).statistic) if varied else nan
    return Change(int((moved < -MOVED).sum()), int((moved > MOVED).sum()), correlation)


def most_exposed(exposures: Float[Tensor, " examples"], count: int) -> Int64[Tensor, " chosen"]:
    """The examples with the largest known exposures, the largest first."""
    known = int((~exposures.isnan()).sum())
    order = exposures.nan_to_num(-1.0).argsort(descending=True, stable=True)
    return order[: min(count, known)]
