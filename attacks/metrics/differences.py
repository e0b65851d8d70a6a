"""Whether one attack finds more than another: differences on the same targets and examples."""

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Measured

ROUNDING = 1e-12  # a share is a count over examples, with rounding of about 1e-16


class Outcome(NamedTuple):
    """What one attack achieves on the targets, by one metric.

    Attributes:
        measured: the metric of each target.
        halves: half the difference between what either half of the shadows finds, for several ways
            to halve them; None where half of the shadows do not suffice.
        round_robin: whether the targets are the shadows, and either half attacks itself.
    """

    measured: Measured
    halves: Float[Tensor, "ways targets"] | None = None
    round_robin: bool = False

    def minus(self, other: "Outcome") -> "Outcome":
        """The paired difference."""
        measured = self.measured.minus(other.measured)
        if self.halves is None or other.halves is None:
            return Outcome(measured, None, self.round_robin)
        return Outcome(measured, self.halves - other.halves, self.round_robin)


class Difference(NamedTuple):
    """How much more `first` finds than `second`, and whether by chance."""

    first: str
    second: str
    estimate: Estimate  # mean over targets of the difference, 95% interval
    p: float  # two-sided
    p_holm: float  # corrected for all comparisons of the call
    shadows: float = nan  # share of the variance that is due to the draw of shadows; NaN: unknown


class VarianceComponent(NamedTuple):
    """A part of the variance of a mean over targets, and the degrees of freedom of its estimate."""

    variance: float
    freedom: float


def paired_differences(
    outcomes: Mapping[str, Outcome], pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """Compare outcomes on the same targets and examples, so that shared variation cancels.

    Several targets: the variance over targets and over shadows (`variance_of_mean`), with Student's
    t, which generalizes to more targets of this pool and other shadows, not to other pools. One
    target: normal, with the variance over its examples (DeLong's for AUC), which generalizes to
    more examples, not to other targets. The latter also replaces the former where all targets
    differ by the same amount, because t would then claim certainty.

    Args:
        outcomes: by name, all by metrics of one scale.
        pairs: the names to compare, first - second.
    """
    compared = [_compare(outcomes[first], outcomes[second]) for first, second in pairs]
    corrected = holm([p for _, p, _ in compared])
    return [
        Difference(*pair, estimate, p, p_holm, shadows)
        for pair, (estimate, p, shadows), p_holm in zip(pairs, compared, corrected, strict=True)
    ]


def variance_of_mean(outcome: Outcome) -> tuple[float, float, float]:
    """Variance of the mean over targets, over other targets and other shadows.

    All targets share their shadows, and what these add to a comparison no spread over targets
    shows: of audits in which every shadow is audited by the others, Student's t over targets finds
    a difference between equal variants in 17%. Two disjoint halves of the shadows are independent
    draws of half the size, so half the difference between their results has the variance that all
    shadows together have (for what is linear in them). What of it differs from target to target is
    subtracted, because the spread over targets already holds it. Where the shadows are the targets,
    both halves attack themselves, and the variance over halves is that over models altogether;
    where half of them do not suffice it is twice that over targets, because every pair of models is
    compared twice.

    Returns:
        The variance, the share of it that is due to the shadows (NaN if unknown), and its degrees
        of freedom (Satterthwaite 1946).
    """
    values, round_robin = outcome.measured.values, outcome.round_robin
    targets = len(values)
    over_targets, added = float(values.var()) / targets, over_shadows(outcome)
    if added is None:
        return over_targets * (2 if round_robin else 1), nan, targets - 1.0
    variance = over_targets + added.variance
    share = added.variance / variance if variance else nan
    if round_robin:
        return variance, share, added.freedom
    return variance, share, satterthwaite([VarianceComponent(over_targets, targets - 1.0), added])


def over_shadows(outcome: Outcome) -> VarianceComponent | None:
    """What the draw of shadows adds to the variance over targets, as `variance_of_mean` explains.

    None where half of the shadows do not suffice.
    """
    values, halves = outcome.measured.values, outcome.halves
    if halves is None:
        return None
    targets = len(values)
    ways = len(halves)
    common = halves.mean(1, keepdim=True)
    square = float(common.square().mean())
    if outcome.round_robin:
        separate = float(values.var()) / targets
    else:
        separate = float((halves - common).square().sum()) / (ways * targets * (targets - 1))
    return VarianceComponent(max(square - separate, 0.0), float(ways))


def satterthwaite(parts: Sequence[VarianceComponent]) -> float:
    """Degrees of freedom of a sum of independent parts; those of the first if all are 0.

    Source: Satterthwaite 1946, doi:10.2307/3002019.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return parts[0].freedom
    return total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def mean_difference(differences: Float[Tensor, " targets"]) -> tuple[Estimate, float]:
    """Mean difference of shares over targets, with its 95% interval and p by Student's t.

    Raises:
        ValueError: fewer than two targets, or all differ by the same amount, where t would claim
            certainty.
    """
    value, spread = differences.mean().item(), differences.std(correction=0).item()
    if len(differences) < 2 or spread <= ROUNDING:
        raise ValueError(
            f"Student's t needs 2 targets that differ, got {len(differences)} with a spread of "
            f"{spread:g}. Compare their scores by `paired_differences`."
        )
    freedom = len(differences) - 1.0
    return student_interval(value, spread / freedom**0.5, freedom, spread)


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


def _compare(first: Outcome, second: Outcome) -> tuple[Estimate, float, float]:
    """Mean difference with its 95% interval, its two-sided p-value and the shadows' share."""
    outcome = first.minus(second)
    values, influence = outcome.measured
    value, spread = values.mean().item(), values.std(correction=0).item()
    if spread > ROUNDING:
        variance, shadows, freedom = variance_of_mean(outcome)
        return *student_interval(value, variance**0.5, freedom, spread), shadows
    error = float(influence.square().sum(1).max()) ** 0.5
    if error > ROUNDING:
        return *student_interval(value, error, inf, spread), nan  # t is then normal
    if abs(value) <= ROUNDING and not _saturated(first.measured):
        return Estimate(0.0, 0.0, 0.0), 1.0, nan  # every example counts the same for both
    # all disjoint pairs differ by `value`; at most this share of all pairs does not (exact, 97.5%)
    trials = influence.shape[1] // 2
    other = 1 - 0.025 ** (1 / trials)
    low, high = (1 - other) * value - other, (1 - other) * value + other
    return Estimate(value, low, high, spread), min(1.0, 2 * (1 + abs(value)) ** -trials), nan


def _saturated(measured: Measured) -> bool:
    """Whether all examples count alike at 0 or 1; in between, all of their scores tie."""
    ends = measured.values * (1 - measured.values) == 0
    return not measured.influence.any() and bool(ends.any())


def student_interval(
    value: float, error: float, freedom: float, spread: float = 0.0
) -> tuple[Estimate, float]:
    """Interval of a difference of shares and its two-sided p-value, by Student's t."""
    margin, p = student.ppf(0.975, freedom) * error, 2 * student.sf(abs(value) / error, freedom)
    low, high = max(value - margin, -1), min(value + margin, 1)
    return Estimate(value, float(low), float(high), spread), float(p)
