"""How well scores separate members from non-members."""

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
    """Rates of members and of non-members that score at or above each distinct score.

    Args:
        scores: higher means likelier a member; may be infinite.
        members: which examples are members.
        weights: how often each bootstrap resample holds each example, for one curve per resample.

    Returns:
        Float64 rates, from the highest threshold to the lowest; NaN for a resample without members
        or without non-members.

    Raises:
        ValueError: a score is NaN, or members or non-members are missing.
    """
    if scores.isnan().any():
        raise ValueError(
            f"Scores must be numbers, got {int(scores.isnan().sum())} NaN of {len(scores)}. "
            "Exclude the models that `health.failures` names."
        )
    if members.all() or not members.any():
        raise ValueError(
            f"An ROC curve needs members and non-members, got {int(members.sum())} members of "
            f"{len(members)} examples. Score examples of both kinds."
        )
    ordered, order = scores.sort(descending=True)
    ends_tie = torch.ones(len(scores) + 1, dtype=torch.bool, device=scores.device)
    ends_tie[1:-1] = ordered[1:] != ordered[:-1]
    sides = torch.stack([~members, members])[:, order]
    if weights is not None:
        sides = sides[:, None] * _take(weights, order)
    counts = pad(sides.byte() if weights is None else sides, (1, 0))  # none score above the top
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
    """Largest value of 1 - (FPR + 1 - TPR) / 2 over all thresholds.

    The threshold is chosen on the same examples, so even random scores exceed 1/2 slightly: by
    0.43 sqrt(1 / #members + 1 / #non-members), 0.03 for 1,000 examples.

    Source: Carlini et al. 2022, arXiv:2112.03570, `plot.py`, where it is "attack accuracy".
    """
    return 0.5 + (roc.tpr - roc.fpr).amax(-1) / 2


def fpr_at(roc: Roc, fpr: float) -> Float[Tensor, "*resamples"]:
    """Largest FPR of the curve that is at most `fpr`."""
    return _at(roc.fpr, roc, fpr)


def tpr_at(roc: Roc, fpr: float) -> Float[Tensor, "*resamples"]:
    """TPR at the largest FPR that is at most `fpr`.

    The LiRA authors take FPR < `fpr`, which at 0.1% of 1,000 non-members allows no false positive.
    """
    return _at(roc.tpr, roc, fpr)


def _at(
    rates: Float[Tensor, "*resamples points"], roc: Roc, fpr: float
) -> Float[Tensor, "*resamples"]:
    """Value of `rates` at the last point whose FPR is at most `fpr`."""
    # 1e-12 covers rounding, and is far less than 1 / n, the distance between two rates
    limit = torch.full_like(roc.fpr[..., :1], fpr + 1e-12)
    last = torch.searchsorted(roc.fpr, limit, right=True) - 1
    return rates.gather(-1, last.clamp_min(0)).squeeze(-1)  # every point of a NaN curve is NaN


def share_below(
    reference: Float[Tensor, " sorted"], scores: Float[Tensor, " scores"]
) -> Float[Tensor, " scores"]:
    """Share of `reference` below each score; a tie counts half."""
    below = torch.searchsorted(reference, scores)
    at_most = torch.searchsorted(reference, scores, right=True)
    return (below + at_most).double() / (2 * len(reference))


def _take(
    values: Integer[Tensor, "*resamples points"], positions: Int64[Tensor, " chosen"]
) -> Integer[Tensor, "*resamples chosen"]:
    """Return `values[..., positions]`, in a sixth of the time of that index."""
    return values.gather(-1, positions.expand(*values.shape[:-1], -1))
