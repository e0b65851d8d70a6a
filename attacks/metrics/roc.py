"""How well scores tell members from non-members."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn.functional import pad


class Roc(NamedTuple):
    """Rates at every threshold, from (0, 0) to (1, 1); tied scores are one point."""

    fpr: Float[Tensor, "*resamples points"]
    tpr: Float[Tensor, "*resamples points"]


def roc(
    scores: Float[Tensor, " examples"],
    members: Bool[Tensor, " examples"],
    weights: Integer[Tensor, "resamples examples"] | None = None,
) -> Roc:
    """Rates of members and non-members whose score is at or above each distinct score.

    Args:
        scores: higher means likelier a member; infinite is fine.
        members: the truth.
        weights: how often each bootstrap resample holds each example, for one curve a resample.

    Returns:
        Float64 rates, from the highest threshold to the lowest; NaN for a resample that holds no
        member or no non-member.

    Raises:
        ValueError: a score is NaN, or there are no members or no non-members.
    """
    if scores.isnan().any():
        raise ValueError(
            f"Scores must be numbers, got {int(scores.isnan().sum())} NaN of {len(scores)}. Leave "
            "out the models that `health.failures` names."
        )
    if members.all() or not members.any():
        raise ValueError(
            f"An ROC curve needs members and non-members, got {int(members.sum())} members of "
            f"{len(members)} examples. Score examples of both kinds."
        )
    ordered, order = scores.sort(descending=True)
    ends_tie = torch.ones(len(scores) + 1, dtype=torch.bool, device=scores.device)
    ends_tie[1:-1] = ordered[1:] != ordered[:-1]
    held = torch.stack([~members, members])[:, order]
    if weights is not None:
        held = held[:, None] * _take(weights, order)
    counts = pad(held.byte() if weights is None else held, (1, 0))  # nobody reaches the top
    counts = counts.cumsum(-1, dtype=torch.int32)
    if not ends_tie.all():
        counts = _take(counts, ends_tie.nonzero().flatten())
    counts = counts.double()
    totals = counts[..., -1:]
    return Roc(*(counts / totals.where(totals.amin(0) > 0, torch.nan)))


def auc(roc: Roc) -> Float[Tensor, "*resamples"]:
    """Chance that a random member outscores a random non-member; a tie counts half."""
    return torch.trapezoid(roc.tpr, roc.fpr)


def balanced_accuracy(roc: Roc) -> Float[Tensor, "*resamples"]:
    """Best of 1 - (FPR + 1 - TPR) / 2 over all thresholds.

    The threshold is chosen on the same examples, so scores that know nothing exceed 1/2 a little:
    by 0.43 sqrt(1 / #members + 1 / #non-members), 0.03 for 1,000 examples.

    Source: Carlini et al. 2022, arXiv:2112.03570, `plot.py`, where it is "attack accuracy".
    """
    return 0.5 + (roc.tpr - roc.fpr).amax(-1) / 2


def fpr_at(roc: Roc, fpr: float) -> Float[Tensor, "*resamples"]:
    """Largest FPR of the curve that is at most `fpr`."""
    return _at(roc.fpr, roc, fpr)


def tpr_at(roc: Roc, fpr: float) -> Float[Tensor, "*resamples"]:
    """TPR at the largest FPR that is at most `fpr`.

    The LiRA authors take FPR < `fpr`: at 0.1% of 1,000 non-members, no false positive at all.
    """
    return _at(roc.tpr, roc, fpr)


def _at(
    rates: Float[Tensor, "*resamples points"], roc: Roc, fpr: float
) -> Float[Tensor, "*resamples"]:
    """Value of `rates`, which only grow, at the last point whose FPR is at most `fpr`."""
    # rounding aside by far less than 1 / n, the distance of two rates
    most = torch.full_like(roc.fpr[..., :1], fpr + 1e-12)
    last = torch.searchsorted(roc.fpr, most, right=True) - 1
    return rates.gather(-1, last.clamp_min(0)).squeeze(-1)  # of a NaN curve any point is NaN


def _take(
    values: Integer[Tensor, "*resamples points"], positions: Int64[Tensor, " chosen"]
) -> Integer[Tensor, "*resamples chosen"]:
    """`values[..., positions]`, which takes 6 times as long."""
    return values.gather(-1, positions.expand(*values.shape[:-1], -1))
