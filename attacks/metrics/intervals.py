"""How far a number can be trusted: intervals within one target and over several."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import betainc
from scipy.stats import binom, binomtest
from scipy.stats import t as student
from torch import Tensor

from attacks.metrics.measures import RATES, Measured, Metric, measure
from attacks.metrics.roc import auc, roc, share_below

_ROUNDING = 1e-12  # a share is a count over examples, with rounding of about 1e-16
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Mean over targets, its 95% interval, and the population std over targets."""

    value: float
    low: float
    high: float
    spread: float = 0.0


class Summary(NamedTuple):
    """Metrics of one attack's scores, and the counts that they rest on."""

    auc: Estimate
    balanced_accuracy: Estimate
    tpr_1pct: Estimate
    tpr_01pct: Estimate
    targets: int
    non_members: int  # fewest of any target
    false_positives_1pct: int  # over all targets; a TPR that rests on fewer than 10 needs a mark
    false_positives_01pct: int


def delong(
    scores: Float[Tensor, " examples"],
    members: Bool[Tensor, " examples"],
    confidence: float = CONFIDENCE,
) -> Estimate:
    """AUC of one target with its interval from the variance over members and non-members.

    Let V_i be the share of non-members below member i (a tie counts half) and W_j the share of
    members above non-member j. Then AUC = mean V = mean W, and its variance is
    var(V) / #members + var(W) / #non-members. At an AUC of 0 or 1 that is 0; the interval is then
    the exact binomial one for as many disjoint pairs as the examples allow.

    Raises:
        ValueError: fewer than two members or non-members.

    Source: DeLong et al. 1988; by ranks as in Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    """
    inside, outside = scores[members].sort().values, scores[~members].sort().values
    pairs = min(len(inside), len(outside))
    if pairs < 2:
        raise ValueError(
            f"DeLong's interval needs 2 members and 2 non-members, got {len(inside)} and "
            f"{len(outside)}. Score more examples."
        )
    by_member, by_non_member = share_below(outside, inside), 1 - share_below(inside, outside)
    value = by_member.mean().item()
    if value in (0, 1):
        return clopper_pearson(round(value * pairs), pairs, confidence)
    variance = by_member.var() / len(inside) + by_non_member.var() / len(outside)
    margin = _quantile(confidence, inf) * variance.sqrt().item()
    return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0))


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """Share of successes with its exact interval (Clopper and Pearson 1934)."""
    interval = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def summarise(
    scores: Float[Tensor, "targets examples"],
    members: Bool[Tensor, "targets examples"],
    confidence: float = CONFIDENCE,
    measured: Mapping[Metric, Measured] | None = None,
) -> Summary:
    """Average the metrics of several targets, with intervals.

    Several targets: `two_way`. A single target says nothing about others: `delong` for the AUC,
    and for a TPR `tail_interval`, which also bounds every TPR of several targets from inside,
    because a spread over targets cannot show what few false positives hide.

    Args:
        scores: higher means likelier a member.
        members: which examples are members.
        confidence: of the intervals; above 95% for an attack that was chosen.
        measured: what `measure` gives, if it is at hand.

    Raises:
        ValueError: a score is NaN, or a target lacks members or non-members.
    """
    measured = measured or measure(scores, members)
    estimates = {metric: two_way(known, confidence) for metric, known in measured.items()}
    if len(scores) == 1:
        estimates["auc"] = delong(scores[0], members[0], confidence)
    inside, outside = scores[members], scores[~members]
    counts = {}
    for metric, fpr in RATES.items():
        low, high = tail_interval(inside, outside, fpr, confidence)
        share = estimates[metric]
        narrow = (share.value, share.value) if len(scores) == 1 else (share.low, share.high)
        estimates[metric] = share._replace(low=min(low, narrow[0]), high=max(high, narrow[1]))
        counts[metric] = int(fpr * len(outside) + _ROUNDING)
    return Summary(
        estimates["auc"],
        estimates["balanced_accuracy"],
        estimates["tpr_1pct"],
        estimates["tpr_01pct"],
        targets=len(scores),
        non_members=int((~members).sum(1).min()),
        false_positives_1pct=counts["tpr_1pct"],
        false_positives_01pct=counts["tpr_01pct"],
    )


def two_way(measured: Measured, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over targets with its interval over other targets and other examples.

    Targets share the pool, so the variance has a part over targets, var(values) / T, and a part
    over examples, which every target repeats; what both hold, the cells', is counted once. The
    part over targets is estimated from few and gets Student's t. A single target has only its
    examples.

    Source: Cameron, Gelbach, Miller 2011, "Robust inference with multiway clustering",
    doi:10.1198/jbes.2010.07136.
    """
    values, influence = measured
    value, targets = values.mean().item(), len(values)
    cells = float(influence.square().sum()) / targets**2
    beyond = max(float(influence.mean(0).square().sum()) - cells, 0.0)
    square = _quantile(confidence, inf) ** 2
    margin = square * cells
    if targets > 1:
        over_targets = float(values.var()) / targets
        margin = max(margin, _quantile(confidence, targets - 1.0) ** 2 * over_targets)
    margin = (margin + square * beyond) ** 0.5
    spread = values.std(correction=0).item()
    if margin <= _ROUNDING:  # equal values would claim certainty
        trials = int(influence.shape[1] / 2)
        exact = clopper_pearson(round(min(max(value, 0.0), 1.0) * trials), trials, confidence)
        return Estimate(value, exact.low, exact.high, spread)
    return Estimate(
        min(max(value, 0.0), 1.0), max(value - margin, 0.0), min(value + margin, 1.0), spread
    )


def tail_interval(
    inside: Float[Tensor, " members"],
    outside: Float[Tensor, " non_members"],
    fpr: float,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of the TPR at an FPR for independent examples, whose threshold is unknown too.

    Of n non-members, a binomial number lies above the true threshold, which is therefore between
    two neighbours among them; the members above it are binomial in turn (Clopper and Pearson's beta
    limits). The interval is that of the mixture, with the mean of the two neighbours' limits.

    With the threshold taken as given, the exact interval covers the truth in 43 to 68% of
    simulations; this one in 95 to 98%, and in up to 100% where fewer than 10 non-members are
    expected above the threshold.
    """
    counts, chances = _numbers_above(len(outside), fpr)
    # in descending order, ties at random as in the test that splits them
    ties = np.random.default_rng(0).random(len(inside) + len(outside))
    order = np.lexsort((ties, -torch.cat([inside, outside]).double().numpy()))
    found = np.cumsum(order < len(inside))  # members among the first
    places = np.flatnonzero(order >= len(inside))
    above = np.concatenate([[0], found[places], [len(inside)]])  # members above each non-member
    few, many = above[counts], above[counts + 1]

    rest, all_chances = len(inside) - many, chances.sum()

    def excess(share: float, level: float) -> float:
        low = np.where(few > 0, betainc(np.maximum(few, 1), len(inside) - few + 1, share), 1.0)
        high = np.where(rest > 0, betainc(many + 1, np.maximum(rest, 1), share), share >= 1)
        return float(chances @ (low + high) / 2 / all_chances - level)

    def quantile(level: float) -> float:
        ends = excess(0.0, level), excess(1.0, level)
        return (
            0.0
            if ends[0] >= 0
            else 1.0
            if ends[1] <= 0
            else float(brentq(excess, 0, 1, level, 1e-6))
        )

    return quantile((1 - confidence) / 2), quantile((1 + confidence) / 2)


@cache
def _numbers_above(outside: int, fpr: float) -> tuple[np.ndarray, np.ndarray]:
    """How many of `outside` non-members may lie above the true threshold, and their chances."""
    first, last = binom.ppf((1e-5, 1 - 1e-5), outside, fpr).astype(int)
    counts = np.arange(first, last + 1)
    return counts, binom.pmf(counts, outside, fpr)


def mean_accuracy(correct: Bool[Tensor, "targets examples"]) -> Estimate:
    """Average the accuracy of several targets, with its interval as in `summarise`.

    Args:
        correct: whether each target classified each example correctly.
    """
    if len(correct) == 1:
        return clopper_pearson(int(correct.sum()), correct.shape[1])
    values = correct.double().mean(1)
    size = (correct.shape[1] * (correct.shape[1] - 1)) ** 0.5
    return two_way(Measured(values, (correct.double() - values[:, None]) / size))


def mean_auc(curves: Sequence[tuple[Tensor, Tensor]]) -> Estimate:
    """Average the AUC of several targets, each with its own examples.

    Several targets: Student's t, which generalizes to more targets of this pool. One: DeLong.

    Args:
        curves: scores and membership of each target, which may differ in length.
    """
    if len(curves) == 1:
        return delong(*curves[0])
    values = torch.stack([auc(roc(*curve)) for curve in curves])
    value, spread = values.mean().item(), values.std(correction=0).item()
    if spread == 0:  # Student's t would claim certainty
        return delong(*curves[0])
    margin = _quantile(CONFIDENCE, len(values) - 1.0) * spread / (len(values) - 1) ** 0.5
    return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0), spread)


@cache
def _quantile(confidence: float, freedom: float) -> float:
    """Margin in standard errors, by Student's t."""
    return float(student.ppf((1 + confidence) / 2, freedom))
