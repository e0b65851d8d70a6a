"""Which examples an attack exposes, and how that changes from one variant to another."""

from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import spearmanr
from torch import Tensor

from attacks.metrics.roc import share_below


def exposure(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Float[Tensor, " examples"]:
    """Mean share of non-members that each example outscores where it is a member.

    At 0.99, an attacker who accuses the example of being a member also accuses 1% of the target's
    non-members, wrongly; 0.5 is no exposure.

    Args:
        scores: higher means likelier a member.
        members: which examples are members.

    Returns:
        Mean over the targets that trained on the example, where a tie counts half; NaN if none did.
    """
    total = torch.zeros(scores.shape[1], dtype=torch.float64)
    for row, inside in zip(scores, members, strict=True):
        total += share_below(row[~inside].sort().values, row).where(inside, 0)
    return total / members.sum(0)  # 0 / 0 is NaN


class Change(NamedTuple):
    """How exposures differ from those at full precision.

    Attributes:
        safer: number of examples whose exposure is lower by more than `MOVED`.
        exposed: number of examples whose exposure is higher by more than `MOVED`.
        correlation: Spearman's, over the examples that any target trained on; NaN where all are
            equally exposed, as in a gap attack on a model that is always right.
    """

    safer: int
    exposed: int
    correlation: float


MOVED = 0.1


def change(before: Float[Tensor, " examples"], after: Float[Tensor, " examples"]) -> Change:
    """Count the examples that become safer or more exposed, among those known in both."""
    known = ~(before.isnan() | after.isnan())
    moved = (after - before)[known]
    varied = all(len(torch.unique(exposures[known])) > 1 for exposures in (before, after))
    correlation = float(spearmanr(before[known], after[known]).statistic) if varied else nan
    return Change(int((moved < -MOVED).sum()), int((moved > MOVED).sum()), correlation)


def most_exposed(exposures: Float[Tensor, " examples"], count: int) -> Int64[Tensor, " chosen"]:
    """Indices of the examples with the largest known exposures, the largest first."""
    known = int((~exposures.isnan()).sum())
    order = exposures.nan_to_num(-1.0).argsort(descending=True, stable=True)
    return order[: min(count, known)]
