"""Which examples an attack exposes, and how that changes from one variant to another."""

from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import spearmanr
from torch import Tensor

from attacks.metrics.roc import count_below


def outscored(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Float[Tensor, "targets examples"]:
    """Share of each target's non-members that score lower than each example; a tie counts half.

    Args:
        scores: higher means likelier a member.
        members: which examples are members.
    """
    return count_below(scores, [~members])[0].shares


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
    return _mean(outscored(scores, members), members)


class Change(NamedTuple):
    """How exposures differ from those at full precision.

    Attributes:
        safer: number of examples whose exposure is lower by more than `MOVED`.
        exposed: number of examples whose exposure is higher by more than `MOVED`.
        correlation: Spearman's, over the examples that any target trained on; NaN where all are
            equally exposed, as in a gap attack on a model that is always right.
        noise: number of examples that noise alone makes safer, and as many more exposed; NaN for a
            single target.
    """

    safer: int
    exposed: int
    correlation: float
    noise: float


MOVED = 0.1


def change(
    before: Float[Tensor, "targets examples"],
    after: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
) -> Change:
    """Count the examples that become safer or more exposed, among those that any target trained on.

    Args:
        before: share of each target's non-members that each example outscores, of `outscored`.
        after: the same for the other variant.
        members: which examples are members.
    """
    known = members.any(0)
    exposures = [_mean(shares, members)[known] for shares in (before, after)]
    moved = exposures[1] - exposures[0]
    varied = all(len(torch.unique(values)) > 1 for values in exposures)
    correlation = float(spearmanr(*exposures).statistic) if varied else nan
    counts = int((moved < -MOVED).sum()), int((moved > MOVED).sum())
    return Change(*counts, correlation, noise(after - before, members))


def noise(
    moves: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    draws: int = 8,
    seed: int = 0,
) -> float:
    """Number of examples that noise alone moves by more than `MOVED` to one side.

    Instead of the mean over the n targets that trained on an example, the count is that of a
    contrast: half of these targets minus the others, weighted to have the variance of a mean, s^2 /
    n. A true change cancels out of it, and noise of any distribution remains, each example's own;
    an example of one target takes the others' contrasts times sqrt(n).

    What all targets share, such as the shadows' noise, cancels out as well. It moves an example
    also for the targets that did not train on it: its variance there, over the variance of one
    target, is what every contrast is widened by.

    Simulated for 2, 4 and 10 targets, 1,000 examples, 16 or 64 shadows and three attacks: without a
    leak within 10% of the number counted, with equal leaks from 4% below it to 15% above it. One
    normal distribution for all examples gave from 44% below to 78% above.

    Args:
        moves: how the share of non-members that an example outscores changes.
        members: which examples are members.
        draws: number of random divisions of the targets to average over.
        seed: seed of the divisions.

    Returns:
        Expected number; NaN where no two targets trained on one example.
    """
    inside = members.sum(0).double()
    several, alone = inside >= 2, int((inside == 1).sum())
    if not several.any():
        return nan
    generator, beyond = torch.Generator().manual_seed(seed), 0.0
    shared = _shared_variance(moves, ~members)
    for _ in range(draws):
        order = torch.randperm(len(moves), generator=generator)
        contrasts = _contrast(moves[order], members[order])[several]
        ours, single = contrasts * (1 + shared * inside[several]).sqrt(), (1 + shared) ** 0.5
        beyond += (ours.abs() > MOVED).sum().item()
        others = contrasts * inside[several].sqrt() * single
        beyond += alone * (others.abs() > MOVED).double().mean().item()
    return beyond / draws / 2


def _contrast(
    moves: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Float[Tensor, " examples"]:
    """Each example's first targets minus the rest, with the variance of a mean over all of them."""
    count = members.sum(0)
    first = count // 2
    rest = count - first
    weights = torch.where(members.cumsum(0) <= first, (rest / first).sqrt(), -(first / rest).sqrt())
    return (weights * moves).where(members, 0).sum(0) / count


def _shared_variance(
    moves: Float[Tensor, "targets examples"], included: Bool[Tensor, "targets examples"]
) -> float:
    """Variance between the examples over that between an example's targets, 0 at the least."""
    count = included.sum(0)
    several = count >= 2
    means, count = _mean(moves, included)[several], count[several]
    residuals = (moves[:, several] - means).where(included[:, several], 0)
    within = residuals.square().sum() / (count - 1).sum()
    between = means.square().mean() - within * (1 / count).mean()
    return max(0.0, (between / within).item()) if within > 0 else 0.0


def _mean(
    values: Float[Tensor, "targets examples"], included: Bool[Tensor, "targets examples"]
) -> Float[Tensor, " examples"]:
    """Mean over the targets that are included for each example; NaN if none is."""
    return values.where(included, 0).sum(0) / included.sum(0)


def most_exposed(exposures: Float[Tensor, " examples"], count: int) -> Int64[Tensor, " chosen"]:
    """Indices of the examples with the largest known exposures, the largest first."""
    known = int((~exposures.isnan()).sum())
    order = exposures.nan_to_num(-1.0).argsort(descending=True, stable=True)
    return order[: min(count, known)]
