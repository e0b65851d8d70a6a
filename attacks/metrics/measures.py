"""Each target's AUC and error rates, and how much every example contributes to them.

A measure of several targets is a mean of one value per target. To first order it is linear in the
cells (target, example), so that every variance of it, over examples, over targets, or of a paired
difference, follows from the cells' contributions, which are called influences.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.metrics.roc import Below, check, count_below, roc

# A TPR at its target's own threshold is 1 to 7% too low with 2.5 or 3 false positives, and 36% with
# 0.3, where a common threshold costs 8% if targets are alike.
_FALSE_POSITIVES = 2
Metric = Literal["auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"]


class Measured(NamedTuple):
    """One metric of every target.

    Attributes:
        values: one per target; their mean is the metric.
        influence: what each example adds to its target's value, to first order; sums to 0.
    """

    values: Float[Tensor, " targets"]
    influence: Float[Tensor, "targets examples"]

    def minus(self, other: "Measured") -> "Measured":
        """The paired difference."""
        return Measured(self.values - other.values, self.influence - other.influence)


def area(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Measured:
    """AUC of every target.

    The influence of a member is that of its share of non-members below it, and the influence of a
    non-member that of the share of members above it; the sum of their squares is DeLong's variance.

    Source: DeLong et al. 1988, doi:10.2307/2531595.
    """
    check(scores, members)
    outside, inside = count_below(scores, (~members, members))
    shares = torch.where(members, outside.shares, 1 - inside.shares)
    return Measured(_rates(shares, members)[0], _influence(shares, members, 1.0, 1.0))


def tail_rate(
    scores: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    fpr: float,
) -> Measured:
    """TPR at a low FPR.

    A target whose own non-members leave 2 false positives or more sets its own threshold. With
    fewer in any target, each half of the targets is accused at a threshold that the other half's
    non-members set together. A single target always sets its own.

    The test has exactly the level `fpr` for a non-member that is exchangeable with the n known
    ones, whatever n and however many scores tie: an example with `above` of them above it and
    `tied` beside it is accused with probability (fpr (n + 1) - above) / (tied + 1), clipped to 0 to
    1, which is a smoothed conformal p-value of at most `fpr`. The curve's own point at the largest
    FPR below `fpr` overstates instead: with 250 non-members and 0.1% it accuses all above the last.

    Where the threshold is common, targets differ in how many of their non-members it accuses. A
    target's value is then its TPR less what its surplus of false positives is worth at the slope of
    the joint ROC. A ROC is concave, so this is too low where the levels of targets differ by much:
    for normal scores, a shift of 1, 300 non-members and 1%, a common threshold would give 8.7, 7.3
    and 1.9% instead of 9.2% with 2 targets whose levels have a standard deviation of 0, 0.3 and
    0.6, and 9.1, 8.2 and 6.6% with 8; own thresholds give 8.7 to 9.1% in all six.

    Source: Vovk, Gammerman, Shafer 2005, "Algorithmic Learning in a Random World", section 2.3.
    """
    fewest = fpr * int((~members).sum(1).min())
    own = len(scores) == 1 or fewest >= _FALSE_POSITIVES
    curve = (scores, members) if own else (scores.reshape(1, -1), members.reshape(1, -1))
    (below,) = count_below(curve[0], [~curve[1]])
    accused = below.exceed(fpr) if own else _accuse(scores, members, fpr)
    tpr, false = _rates(accused, members)
    slope = _slope(below, curve[1], fpr)
    influence = _influence(accused, members, 1.0, -slope)
    if own:  # its threshold was set by the same non-members
        return Measured(tpr, influence)
    return Measured(tpr - slope * (false - fpr), influence)


def balanced_accuracy(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Measured:
    """Mean of TPR and 1 - FPR at a threshold that was chosen elsewhere.

    The threshold is the best for the other half of the targets, or of the examples of a single
    target. Chosen on the same examples, random scores would exceed 1/2 by 0.43 sqrt(1 / members +
    1 / non-members).
    """
    accused = torch.zeros(scores.shape, dtype=torch.float64)
    first, second = halves(scores)
    for chosen, tested in ((second, first), (first, second)):
        threshold = _best_threshold(scores[chosen], members[chosen])
        accused[tested] = (scores[tested] >= threshold).double()
    tpr, false = _rates(accused, members)
    return Measured((1 + tpr - false) / 2, _influence(accused, members, 0.5, -0.5))


def halves(scores: Float[Tensor, "targets examples"]) -> list[Bool[Tensor, "targets examples"]]:
    """Two masks of cells: each half of the targets, or of a single target's examples at random."""
    targets, examples = scores.shape
    first = torch.zeros(scores.shape, dtype=torch.bool)
    if targets > 1:
        first[: targets // 2] = True
    else:
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
        first[0, order[: examples // 2]] = True
    return [first, ~first]


def _influence(
    shares: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    of_members: float,
    of_non_members: float,
) -> Float[Tensor, "targets examples"]:
    """Deviations of each side from its mean, over its size n, times that side's weight.

    Their squares sum to the variance of the side's mean, by the sample variance: hence n (n - 1).
    """
    influence = torch.zeros(shares.shape, dtype=torch.float64)
    for side, weight in ((members, of_members), (~members, of_non_members)):
        count = side.sum(1, keepdim=True)
        mean = (shares * side).sum(1, keepdim=True) / count
        size = (count * (count - 1).clamp_min(1)).double().sqrt()
        influence += weight * torch.where(side, (shares - mean) / size, 0)
    return influence


def _rates(
    accused: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"]]:
    """TPR and FPR of every target."""
    tpr, false = ((accused * side).sum(1) / side.sum(1) for side in (members, ~members))
    return tpr, false


def _accuse(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"], fpr: float
) -> Float[Tensor, "targets examples"]:
    """Probability with which each example is accused, at the other half's threshold."""
    half = len(scores) // 2
    accused = []
    for tested, known in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        others = scores[known][~members[known]].sort().values
        rows = scores[tested].contiguous()
        lower, at_most = (torch.searchsorted(others, rows, right=right) for right in (False, True))
        total = torch.tensor([[len(others)]])
        accused.append(Below(lower, at_most - lower, total).exceed(fpr))
    return torch.cat(accused)


def _slope(below: Below, members: Bool[Tensor, "targets examples"], fpr: float) -> float:
    """Slope from half an FPR to twice of it, of the targets' mean ROC."""
    more, less = (
        float(_rates(below.exceed(level), members)[0].mean()) for level in (2 * fpr, fpr / 2)
    )
    return (more - less) / (1.5 * fpr)


def _best_threshold(scores: Float[Tensor, " cells"], members: Bool[Tensor, " cells"]) -> float:
    """The threshold at or above which TPR exceeds FPR by most."""
    curve = roc(scores, members)
    point = int((curve.tpr - curve.fpr).argmax())
    if point == 0:
        return torch.inf
    return float(torch.unique(scores)[-point])


RATES: dict[Metric, float] = {"tpr_1pct": 0.01, "tpr_01pct": 0.001}  # FPR of each TPR
MEASURES: dict[Metric, Callable[[Tensor, Tensor], Measured]] = {
    "auc": area,
    "balanced_accuracy": balanced_accuracy,
    **{metric: partial(tail_rate, fpr=fpr) for metric, fpr in RATES.items()},
}


def measure(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> dict[Metric, Measured]:
    """Every metric of every target."""
    return {metric: measured(scores, members) for metric, measured in MEASURES.items()}
