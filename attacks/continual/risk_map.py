"""Who is at risk, from leverages alone: what attacks on a ridge head are expected to find.

For a linear model with normal noise of variance s^2 in each column, the residual of a member with
leverage h is N(0, s^2 (1 - h)), and without the example N(0, s^2 / (1 - h)). The best attack looks
at the sum of squares.

The map is checked with the true membership under each audited model: it turns a non-member's
phi^T R phi into the leverage that it would have as a member, and the attack is judged by it. So it
is an auditor's check, and no attack.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.stats import chi2, spearmanr
from scipy.stats import f as fisher
from torch import Tensor

from attacks.continual.over_targets import over_targets
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import area

GROUPS = 10


class RiskGroup(NamedTuple):
    """Examples of similar leverage.

    Attributes:
        examples: number of them.
        leverage: mean of the leverage that they have, or would have, as members.
        expected: mean of the AUC that the leverages let expect.
        expected_tpr_1pct: the same of the TPR at 1% FPR.
        found: AUC of an attack among them, mean over targets.
    """

    examples: int
    leverage: float
    expected: float
    expected_tpr_1pct: float
    found: Estimate


class RiskMap(NamedTuple):
    """How well leverages tell who is exposed.

    Attributes:
        attack: the attack that is made.
        groups: by ascending leverage.
        correlation: rank correlation of expected and found AUC over groups, mean over targets.
    """

    attack: str
    groups: list[RiskGroup]
    correlation: Estimate


def expected_auc(
    leverage: Float[Tensor, " examples"], columns: int = 1
) -> Float[Tensor, " examples"]:
    """AUC that leverages let expect, of an attack on independent columns of pure noise.

    For one column it is 2 / pi atan(1 / (1 - h)).

    Args:
        leverage: h of a member, from 0 to 1.
        columns: number of independent columns.
    """
    ratio = (1 - leverage.double()).square().reciprocal()
    return torch.from_numpy(fisher.cdf(ratio.numpy(), columns, columns))


def expected_tpr(
    leverage: Float[Tensor, " examples"], fpr: float, columns: int = 1
) -> Float[Tensor, " examples"]:
    """TPR at an FPR that leverages let expect; about fpr (1 - h)^-columns for a small FPR.

    For one column it is 2 Phi(Phi^-1((1 + fpr) / 2) / (1 - h)) - 1.
    """
    threshold = chi2.ppf(fpr, columns) / (1 - leverage.double()).square().numpy()
    return torch.from_numpy(chi2.cdf(threshold, columns))


def as_members(
    leverage: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Float[Tensor, "targets examples"]:
    """The leverage that every example has as a member: h, or q / (1 + q) of a true non-member."""
    known = leverage.double().clamp(0)
    return torch.where(members, known.clamp_max(1 - 1e-6), known / (1 + known))


def map_risk(
    attack: str,
    scores: Float[Tensor, "targets examples"],
    leverage: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
) -> RiskMap | None:
    """Divide examples into groups of similar leverage, and attack each.

    Args:
        attack: its name.
        scores: of the attack.
        leverage: phi^T R phi under each target.
        members: which target trained on which example, in truth; leverages are put on one scale by
            it, and the attack is judged by it.

    Returns:
        None if a group would have no members, or no non-members, of some target, or if the attack
        finds the same in all groups of a target, which leaves nothing to rank.
    """
    h = as_members(leverage, members)
    groups, found = [], []
    for part in h.mean(0).argsort().tensor_split(GROUPS):
        inside = members[:, part].sum(1)
        if ((inside == 0) | (inside == len(part))).any():
            return None
        measured = area(scores[:, part], members[:, part])
        own = h[:, part].flatten()
        expected = expected_auc(own).mean().item(), expected_tpr(own, 0.01).mean().item()
        groups.append(RiskGroup(len(part), own.mean().item(), *expected, two_way(measured)))
        found.append(measured.values)
    by_target = torch.stack(found, 1)
    if (by_target == by_target[:, :1]).all(1).any():
        return None
    ranks = [group.expected for group in groups]
    return RiskMap(attack, groups, _correlate(ranks, by_target))


def _correlate(expected: Sequence[float], found: Float[Tensor, "targets groups"]) -> Estimate:
    """Mean over targets of the rank correlation with what is found in each."""
    rho = [float(spearmanr(expected, row).statistic) for row in found.tolist()]
    return over_targets(torch.tensor(rho, dtype=torch.float64), (-1.0, 1.0))
