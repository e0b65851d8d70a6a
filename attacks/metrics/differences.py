"""Whether one variant leaks more than another: AUC differences on the same targets and examples."""

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.stats import t as student
from torch import Tensor

from attacks.metrics.intervals import Estimate
from attacks.metrics.roc import auc, roc, share_below

_ROUNDING = 1e-12  # an AUC is a count over #members x #non-members, with rounding of about 1e-16


class Difference(NamedTuple):
    """How much higher the AUC of `first` is than that of `second`, and whether by chance."""

    first: str
    second: str
    estimate: Estimate  # mean over targets of AUC(first) - AUC(second), 95% interval
    p: float  # two-sided
    p_holm: float  # corrected for all comparisons of the call


def paired_differences(
    scores: Mapping[str, Float[Tensor, "targets examples"]],
    members: Bool[Tensor, "targets examples"],
    pairs: Sequence[tuple[str, str]],
) -> list[Difference]:
    """Compare AUCs of the same targets on the same examples, so that shared variation cancels.

    Several targets: Student's t over their differences, which generalizes to more targets of this
    pool, not to other pools. One target: normal, with DeLong's variance over its examples, which
    generalizes to more examples, not to other targets. DeLong also replaces Student's t where all
    targets differ by the same amount, because t would then claim certainty.

    Args:
        scores: by name; higher means likelier a member.
        members: which examples are members, the same for every name.
        pairs: the names to compare, first - second.

    Raises:
        ValueError: a score is NaN, a target lacks members or non-members, or DeLong's variance is
            needed and a target has fewer than two of either.

    Source: DeLong et al. 1988, doi:10.2307/2531595.
    """
    areas = {
        name: torch.stack([auc(roc(*rows)) for rows in zip(scores[name], members, strict=True)])
        for name in {name for pair in pairs for name in pair}
    }
    comparisons = [
        _compare(areas[first] - areas[second], scores[first], scores[second], members)
        for first, second in pairs
    ]
    corrected = holm([p for _, p in comparisons])
    return [
        Difference(*pair, *comparison, p_holm)
        for pair, comparison, p_holm in zip(pairs, comparisons, corrected, strict=True)
    ]


def mean_difference(differences: Float[Tensor, " targets"]) -> tuple[Estimate, float]:
    """Mean difference of shares over targets, with its 95% interval and p by Student's t.

    Raises:
        ValueError: fewer than two targets, or all differ by the same amount, where t would claim
            certainty.
    """
    value, spread = differences.mean().item(), differences.std(correction=0).item()
    if len(differences) < 2 or spread <= _ROUNDING:
        raise ValueError(
            f"Student's t needs 2 targets that differ, got {len(differences)} with a spread of "
            f"{spread:g}. Compare their scores by `paired_differences`."
        )
    freedom = len(differences) - 1.0
    return _interval(value, spread / freedom**0.5, freedom, spread)


def ratio_of_means(
    numerators: Float[Tensor, " targets"], denominators: Float[Tensor, " targets"]
) -> Estimate | None:
    """Ratio of two paired means with its 95% interval: every ratio that t does not reject.

    Returns:
        None if the denominators' mean does not differ significantly from 0: any ratio is possible.

    Source: Fieller 1954, "Some problems in interval estimation".
    """
    top, bottom, count = numerators.mean(), denominators.mean(), len(numerators)
    (top_top, cross), (_, bottom_bottom) = torch.stack([numerators, denominators]).cov()
    scale = float(student.ppf(0.975, count - 1)) ** 2 / count
    a = bottom.square() - scale * bottom_bottom
    if a <= 0:
        return None
    b, c = top * bottom - scale * cross, top.square() - scale * top_top
    root = (b.square() - a * c).clamp_min(0).sqrt()
    ratios = top / bottom, (b - root) / a, (b + root) / a
    return Estimate(*(ratio.item() for ratio in ratios))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false finding among them stays at the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, position in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        floor = max(floor, min((len(p) - rank) * p[position], 1.0))
        adjusted[position] = floor
    return adjusted


def _compare(
    differences: Float[Tensor, " targets"],
    first: Float[Tensor, "targets examples"],
    second: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
) -> tuple[Estimate, float]:
    """Mean difference with its 95% interval, and its two-sided p-value."""
    value, spread = differences.mean().item(), differences.std(correction=0).item()
    if spread > _ROUNDING:
        return mean_difference(differences)
    error = max(map(_delong_error, first, second, members))
    if error > _ROUNDING:
        return _interval(value, error, inf, spread)  # t is then normal
    if all(map(_same_order, first, second)):
        return Estimate(0.0, 0.0, 0.0), 1.0
    # all disjoint pairs differ by `value`; at most this share of all pairs does not (exact, 97.5%)
    trials = int(torch.minimum(members.sum(1), (~members).sum(1)).min())
    other = 1 - 0.025 ** (1 / trials)
    low, high = (1 - other) * value - other, (1 - other) * value + other
    return Estimate(value, low, high, spread), min(1.0, 2 * (1 + abs(value)) ** -trials)


def _interval(
    value: float, error: float, freedom: float, spread: float = 0.0
) -> tuple[Estimate, float]:
    """Interval of a difference of shares and its two-sided p-value, by Student's t."""
    margin, p = student.ppf(0.975, freedom) * error, 2 * student.sf(abs(value) / error, freedom)
    low, high = max(value - margin, -1), min(value + margin, 1)
    return Estimate(value, float(low), float(high), spread), float(p)


def _delong_error(
    first: Float[Tensor, " examples"],
    second: Float[Tensor, " examples"],
    members: Bool[Tensor, " examples"],
) -> float:
    """Standard error of a difference of AUCs, by `delong`'s formula on differences of V and W."""
    counts = int(members.sum()), int((~members).sum())
    if min(counts) < 2:
        raise ValueError(
            f"DeLong's variance needs 2 members and 2 non-members, got {counts[0]} and "
            f"{counts[1]}. Score more examples."
        )
    error = torch.zeros((), dtype=torch.float64)
    for side, other in ((members, ~members), (~members, members)):
        shares = (share_below(row[other].sort().values, row[side]) for row in (first, second))
        error += torch.sub(*shares).var() / side.sum()
    return error.sqrt().item()


def _same_order(first: Float[Tensor, " examples"], second: Float[Tensor, " examples"]) -> bool:
    """Whether both give all examples the same order, ties included: no AUC can then differ."""
    return torch.equal(*(torch.unique(row, return_inverse=True)[1] for row in (first, second)))


class Sample(NamedTuple):
    """Summary of a sample: its mean, population standard deviation and number of values."""

    mean: float
    spread: float
    number: int


def welch(first: Sample, second: Sample) -> tuple[Estimate, float]:
    """Difference of two means, first - second, with its 95% interval and two-sided p-value.

    All but the difference is NaN if either sample has a single value or neither has any spread.

    Source: Welch 1947, doi:10.2307/2332510, with Satterthwaite's degrees of freedom.
    """
    value = first.mean - second.mean
    if min(first.number, second.number) < 2 or max(first.spread, second.spread) < _ROUNDING:
        return Estimate(value, nan, nan), nan
    # squared standard error of a mean: spread^2 n / (n - 1), the variance's estimate, over n
    errors = [sample.spread**2 / (sample.number - 1) for sample in (first, second)]
    error = sum(errors) ** 0.5
    parts = zip(errors, (first.number, second.number), strict=True)
    freedom = sum(errors) ** 2 / sum(part**2 / (number - 1) for part, number in parts)
    return _interval(value, error, freedom)
