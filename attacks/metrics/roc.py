"""How well scores separate members from non-members."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad


class Roc(NamedTuple):
    """Rates at every threshold, from (0, 0) to (1, 1); tied scores are one point."""

    fpr: Float[Tensor, " points"]
    tpr: Float[Tensor, " points"]


def roc(scores: Float[Tensor, " examples"], members: Bool[Tensor, " examples"]) -> Roc:
    """Rates of members and of non-members that score at or above each distinct score.

    Args:
        scores: higher means likelier a member; may be infinite.
        members: which examples are members.

    Returns:
        Float64 rates, from the highest threshold to the lowest.

    Raises:
        ValueError: as `check`.
    """
    check(scores, members)
    ordered, order = scores.sort(descending=True)
    ends_tie = torch.ones(len(scores) + 1, dtype=torch.bool, device=scores.device)
    ends_tie[1:-1] = ordered[1:] != ordered[:-1]
    sides = torch.stack([~members, members])[:, order]
    counts = pad(sides.byte(), (1, 0)).cumsum(-1, dtype=torch.int32)  # none score above the top
    counts = counts[:, ends_tie].double()
    return Roc(*(counts / counts[:, -1:]))


def check(scores: Float[Tensor, " examples"], members: Bool[Tensor, " examples"]) -> None:
    """Raise ValueError if a score is NaN, or members or non-members are missing."""
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


def auc(roc: Roc) -> Float[Tensor, ""]:
    """Chance that a random member outscores a random non-member; a tie counts half."""
    return torch.trapezoid(roc.tpr, roc.fpr)


def share_below(
    reference: Float[Tensor, " sorted"], scores: Float[Tensor, " scores"]
) -> Float[Tensor, " scores"]:
    """Share of `reference` below each score; a tie counts half."""
    below = torch.searchsorted(reference, scores)
    at_most = torch.searchsorted(reference, scores, right=True)
    return (below + at_most).double() / (2 * len(reference))
