"""Numbers and comparisons as text, and notes that explain the words of every view."""

from collections.abc import Mapping
from math import isnan

from attacks.game import Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric

FEW = 10  # a TPR that rests on fewer false positives is marked
MARK = "†"
METRIC_NAMES: dict[Metric, str] = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "tpr_1pct": "TPR at 1% FPR",
    "tpr_01pct": "TPR at 0.1% FPR",
}
BEST = "★"
SHADOWS: dict[str, str] = {  # by kind of knowledge
    "matched": "matched shadows",
    "unquantized": "full-precision shadows",
    "recalibrated": "recalibrated full-precision shadows",
    "none": "no shadows",
}
TITLES: dict[Knowledge, str] = {
    "matched": "shadows quantized like the target",
    "unquantized": "full-precision shadows",
    "recalibrated": "recalibrated full-precision shadows",
}
AUC_NOTE = (
    "AUC: the chance that a random member gets a higher score than a random non-member; 0.5 is "
    "guessing."
)
RISK_NOTE = (
    "A variant's risk is the AUC of its strongest attack. As the maximum of several estimates it "
    "is biased slightly upward."
)
TPR_NOTE = (
    "TPR at 1% FPR: the share of members found when 1% of the non-members are wrongly accused."
)
INTERVAL_NOTE = "In brackets: 95% intervals; after ±: the standard deviation over targets."
MARK_NOTE = f"{MARK} rests on fewer than {FEW} false positives and proves little."
RECALIBRATED_NOTE = (
    "Recalibrated: the target's signals are shifted and scaled to where full-precision shadows "
    "expect them, as measured on examples that no model trained on."
)
SHADOWS_NOTE = (
    "Matched shadows are quantized like the target; full-precision shadows are not quantized, as "
    f"in the paper's code, which can understate the risk. {RECALIBRATED_NOTE}"
)


def dagger(false_positives: int | None) -> str:
    """The mark of a TPR that rests on few false positives or an unknown number of them."""
    return "" if false_positives is not None and false_positives >= FEW else MARK


def show(estimate: Estimate, percent: bool = False, spread: bool = False) -> str:
    """An estimate: 0.692 (0.671-0.713), 0.692±0.011 (...) with its spread, or 12.0% (9.1-15.2)."""
    if isnan(estimate.value):
        return "unknown"
    if percent:
        value, low, high = (100 * number for number in estimate[:3])
        return f"{value:.1f}% ({low:.1f}-{high:.1f})"
    over_targets = f"±{estimate.spread:.3f}" if spread else ""
    return f"{estimate.value:.3f}{over_targets} ({estimate.low:.3f}-{estimate.high:.3f})"


def show_difference(estimate: Estimate, percent: bool = False) -> str:
    """A difference with its sign: -0.021 (-0.031 to -0.011), or in points -2.1 (-3.1 to -1.1)."""
    if percent:
        value, low, high = (100 * number for number in estimate[:3])
        return f"{value:+z.1f} ({low:+z.1f} to {high:+z.1f})"
    return f"{estimate.value:+z.3f} ({estimate.low:+z.3f} to {estimate.high:+z.3f})"


def show_p(p: float) -> str:
    """A p-value: 0.031, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def compare(differences: Mapping[Metric, Difference]) -> str:
    """A sentence on which of two variants leaks more, on average (AUC) and in the tail (TPR).

    A difference is shown if its p is below 5% after correction for all comparisons by both metrics.
    Where one metric shows more and the other less, or nothing, the sentence says so.

    Args:
        differences: of the same two variants, by AUC and by a TPR at a low FPR.
    """
    auc, (tail, rate) = differences["auc"], next(m for m in differences.items() if m[0] != "auc")
    first, second = auc.first, auc.second
    average, extreme = _direction(auc), _direction(rate)
    on_average, in_tail = _extent(auc, "auc"), _extent(rate, tail)
    if average and average == extreme:
        return f"{first} leaks {average} than {second}: {on_average} and {in_tail}."
    if average and extreme:
        return (
            f"{first} leaks {average} than {second} on average ({on_average}) and {extreme} in the "
            f"tail ({in_tail})."
        )
    if average:
        return (
            f"{first} leaks {average} than {second} on average ({on_average}); in the tail no "
            f"difference is shown ({in_tail})."
        )
    if extreme:
        return (
            f"{first} leaks {extreme} than {second} in the tail ({in_tail}); on average no "
            f"difference is shown ({on_average})."
        )
    return f"{first} and {second}: no difference shown ({on_average}; {in_tail})."


def _direction(difference: Difference) -> str:
    """Whether the first is shown to leak more or less; empty if neither."""
    if difference.p_holm >= 0.05:
        return ""
    return "more" if difference.estimate.value > 0 else "less"


def _extent(difference: Difference, metric: Metric) -> str:
    """The interval of a difference, in AUC or in points of TPR."""
    low, high = difference.estimate.low, difference.estimate.high
    name, unit = METRIC_NAMES[metric], ""
    if metric != "auc":
        low, high, unit = 100 * low, 100 * high, " points"
    if direction := _direction(difference):
        near, far = sorted([abs(low), abs(high)])
        return f"{_range(near, far, metric)}{unit} {direction} {name}"
    alone = "" if low <= 0 <= high else " before correction for the number of comparisons"
    return f"{name} {_range(low, high, metric)}{unit}{alone}"


def _range(low: float, high: float, metric: Metric) -> str:
    """Both ends with few decimals, or as many as it takes to tell them apart and from 0."""

    def told_apart(decimals: int) -> bool:
        ends = round(low, decimals), round(high, decimals)
        return ends[0] != ends[1] and all(ends)

    fewest = 2 if metric == "auc" else 1
    decimals = next(filter(told_apart, range(fewest, 7)), fewest)
    return f"{low:z.{decimals}f} to {high:z.{decimals}f}"
