"""How well scores separate members from non-members."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
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


def check(
    scores: Float[Tensor, "*targets examples"], members: Bool[Tensor, "*targets examples"]
) -> None:
    """Raise ValueError if a score is NaN, or a target lacks members or non-members."""
    if unknown := int(scores.isnan().sum()):
        raise ValueError(
            f"Scores must be numbers, got {unknown} NaN of {scores.numel()}. "
            "Exclude the models that `health.failures` names."
        )
    for count in members.sum(-1).flatten().tolist():
        if count in (0, members.shape[-1]):
            raise ValueError(
                f"An ROC curve needs members and non-members, got {count} members of "
                f"{members.shape[-1]} examples. Score examples of both kinds."
            )


def auc(roc: Roc) -> Float[Tensor, ""]:
    """Chance that a random member outscores a random non-member; a tie counts half."""
    return torch.trapezoid(roc.tpr, roc.fpr)


class Below(NamedTuple):
    """How many of a target's members, or non-members, score below each of its examples.

    Attributes:
        lower: number of those that score lower.
        tied: number of those that score the same.
        total: number of all of them.
    """

    lower: Int64[Tensor, "targets examples"]
    tied: Int64[Tensor, "targets examples"]
    total: Int64[Tensor, "#targets 1"]

    @property
    def shares(self) -> Float[Tensor, "targets examples"]:
        """Share that scores below each example; a tie counts half."""
        return (2 * self.lower + self.tied).double() / (2 * self.total)

    def exceed(self, level: float) -> Float[Tensor, "targets examples"]:
        """Probability with which a test of this level finds each example above non-members."""
        above = self.total - self.lower - self.tied
        return ((level * (self.total + 1).double() - above.double()) / (self.tied + 1)).clamp(0, 1)


def count_below(
    scores: Float[Tensor, "targets examples"], sides: Sequence[Bool[Tensor, "targets examples"]]
) -> list[Below]:
    """Count the examples of each side that score below each example of the same target.

    Args:
        scores: higher means likelier a member.
        sides: which examples to count, such as the non-members.
    """
    ordered, order = scores.contiguous().sort(1)
    ends = [torch.searchsorted(ordered, ordered, right=right) for right in (False, True)]
    below = []
    for side in sides:
        counts = pad(side.gather(1, order), (1, 0)).cumsum(1)
        lower, at_most = (
            torch.empty_like(order).scatter_(1, order, counts.gather(1, end)) for end in ends
        )
        below.append(Below(lower, at_most - lower, counts[:, -1:]))
    return below


def share_below(
    reference: Float[Tensor, " sorted"], scores: Float[Tensor, " scores"]
) -> Float[Tensor, " scores"]:
    """Share of `reference` below each score; a tie counts half."""
    below = torch.searchsorted(reference, scores)
    at_most = torch.searchsorted(reference, scores, right=True)
    return (below + at_most).double() / (2 * len(reference))
