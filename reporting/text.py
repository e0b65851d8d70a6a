"""Numbers and comparisons as text, and notes that explain the words of every view."""

from collections.abc import Mapping, Sequence
from math import isnan

from attacks.evaluate import FEW, Row
from attacks.game import Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from attacks.metrics.measures import Metric

LEVEL = 0.05  # of a corrected p-value
MARK = "†"
BEST = "★"
SHADOWS: dict[str, str] = {  # by kind of knowledge
    "matched": "matched shadows",
    "unquantized": "full-precision shadows",
    "recalibrated": "recalibrated shadows",
    "other": "another experiment's shadows",
    "none": "no shadows",
}
TITLES: dict[Knowledge, str] = {
    "matched": "shadows quantized like the target",
    "unquantized": "full-precision shadows",
    "recalibrated": "full-precision shadows, recalibrated",
    "other": "shadows of another experiment",
}
NAMES: dict[Metric, str] = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "tpr_1pct": "TPR at 1% FPR",
    "tpr_01pct": "TPR at 0.1% FPR",
}
GUESSING: dict[Metric, float] = {
    "auc": 0.5,
    "balanced_accuracy": 0.5,
    "tpr_1pct": 0.01,
    "tpr_01pct": 0.001,
}
AUC_NOTE = (
    "AUC: the chance that a random member gets a higher score than a random non-member; 0.5 is "
    "guessing."
)
RISK_NOTE = (
    "A variant's risk has two ends: the AUC says how much it leaks on average, and the TPR at a "
    "low FPR whether some of its members are exposed more than that. Each is that of the attack "
    "which is strongest by it. As the maximum of several estimates it is biased slightly upward, "
    "more so for a variant that is attacked with several kinds of shadows."
)
TPR_NOTE = (
    "TPR at 1% (0.1%) FPR: the share of members found when 1% (0.1%) of the non-members are "
    "wrongly accused."
)
INTERVAL_NOTE = "In brackets: 95% intervals."
MARK_NOTE = f"{MARK} rests on fewer than {FEW} false positives and proves little."
SHADOWS_NOTE = (
    "Matched shadows are quantized like the target; full-precision shadows are not quantized, as "
    "in the paper's code, which can understate the risk."
)
RECALIBRATED_NOTE = (
    "Recalibrated shadows are full-precision shadows from whose signals the target's differ by a "
    "shift and a scale that are measured on examples no model trained on, and undone."
)


def dagger(false_positives: int | None) -> str:
    """The mark of a TPR that rests on few false positives or an unknown number of them."""
    return "" if false_positives is not None and false_positives >= FEW else MARK


def false_positives(summary: Summary, metric: Metric) -> int | None:
    """How many false positives a TPR rests on; None for a metric that is no TPR."""
    counts: dict[Metric, int] = {
        "tpr_1pct": summary.false_positives_1pct,
        "tpr_01pct": summary.false_positives_01pct,
    }
    return counts.get(metric)


def show_metric(summary: Summary, metric: Metric) -> str:
    """An AUC or a balanced accuracy as a number, a TPR in percent with its mark."""
    estimate: Estimate = getattr(summary, metric)
    if (count := false_positives(summary, metric)) is None:
        return show(estimate)
    return show(estimate, percent=True) + dagger(count)


def name_attack(row: Row) -> str:
    """An attack with its shadows: `lira_online with matched shadows`, or `gap`."""
    return row.attack if row.knowledge == "none" else f"{row.attack} with {SHADOWS[row.knowledge]}"


def kinds_of(rows: Sequence[Row]) -> list[Knowledge]:
    """The kinds of shadows of some attacks, in the order of `TITLES`."""
    kinds = {row.knowledge for row in rows}
    return [kind for kind in TITLES if kind in kinds]


def shadows_note(rows: Sequence[Row]) -> str:
    """What the kinds of shadows of some attacks are."""
    kinds = kinds_of(rows)
    return " ".join([SHADOWS_NOTE, *[RECALIBRATED_NOTE] * ("recalibrated" in kinds)])


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


def show_change(difference: Estimate, metric: Metric) -> str:
    """A difference in one metric: of shares in points, -1.2 (-2.0 to -0.4), of AUC as it is."""
    if metric not in ("tpr_1pct", "tpr_01pct"):
        return show_difference(difference)
    value, low, high = (100 * number for number in difference[:3])
    return f"{value:+z.1f} ({low:+z.1f} to {high:+z.1f})"


def show_p(p: float) -> str:
    """A p-value: 0.031, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(words: Sequence[str]) -> str:
    """Words as a list: "a", "a and b", "a, b and c"."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


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
    if difference.p_holm >= LEVEL:
        return ""
    return "more" if difference.estimate.value > 0 else "less"


def _extent(difference: Difference, metric: Metric) -> str:
    """What the interval of a difference shows, or that it shows nothing."""
    estimate, rate = difference.estimate, metric != "auc"
    if _direction(difference):
        return extent(metric, estimate)
    low, high = ((100 if rate else 1) * end for end in estimate[1:3])
    alone = "" if low <= 0 <= high else " before correction for the number of comparisons"
    return (
        f"{NAMES[metric]} {_range(low, high, 1 if rate else 2)}{' points' if rate else ''}{alone}"
    )


def extent(metric: Metric, difference: Estimate) -> str:
    """How much is between two: `AUC 0.08 to 0.09 less`, `TPR at 1% FPR 1.2 to 2.9 points more`."""
    rate = metric in ("tpr_1pct", "tpr_01pct")
    near, far = sorted((100 if rate else 1) * abs(end) for end in difference[1:3])
    unit, direction = " points" if rate else "", "more" if difference.value > 0 else "less"
    return f"{NAMES[metric]} {_range(near, far, 1 if rate else 2)}{unit} {direction}"


def _range(low: float, high: float, fewest: int = 2) -> str:
    """Both ends with few decimals, or as many as it takes to tell them apart and from 0."""

    def told_apart(decimals: int) -> bool:
        ends = round(low, decimals), round(high, decimals)
        return ends[0] != ends[1] and all(ends)

    decimals = next(filter(told_apart, range(fewest, 7)), fewest)
    return f"{low:z.{decimals}f} to {high:z.{decimals}f}"
