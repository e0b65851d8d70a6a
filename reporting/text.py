"""Numbers and comparisons as text, and notes that explain the words of every view."""

from math import isnan

from attacks.game import Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate

FEW = 10  # a TPR that rests on fewer false positives is marked
MARK = "†"
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


def show_difference(estimate: Estimate) -> str:
    """A difference with its sign: -0.021 (-0.031 to -0.011)."""
    return f"{estimate.value:+z.3f} ({estimate.low:+z.3f} to {estimate.high:+z.3f})"


def show_p(p: float) -> str:
    """A p-value: 0.031, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def compare(difference: Difference) -> str:
    """A sentence on which of two variants leaks more, if any at 5% after correction."""
    first, second, (_, low, high, _), _, p_holm = difference
    if p_holm < 0.05:
        more, (near, far) = low > 0, sorted([abs(low), abs(high)])
        extent = f"{_range(near, far)} {'more' if more else 'less'}"
        return f"{first} leaks {extent} AUC than {second}."
    alone = "" if low <= 0 <= high else " before correction for the number of comparisons"
    return f"{first} and {second}: no difference shown (AUC {_range(low, high)}{alone})."


def _range(low: float, high: float) -> str:
    """Both ends with 2 decimals, or as many as it takes to tell them apart and from 0."""

    def told_apart(decimals: int) -> bool:
        ends = round(low, decimals), round(high, decimals)
        return ends[0] != ends[1] and all(ends)

    decimals = next(filter(told_apart, range(2, 7)), 2)
    return f"{low:z.{decimals}f} to {high:z.{decimals}f}"
