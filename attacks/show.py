"""Numbers as text."""

from math import isnan

from attacks.intervals import Estimate

SHADOWS = {"matched": "matched shadows", "full": "full shadows", "none": "no shadows"}


def show(estimate: Estimate, percent: bool = False, spread: bool = False) -> str:
    """An estimate: 0.692 (0.671-0.713), with its spread 0.692±0.011 (...), or 12.0% (9.1-15.2)."""
    if isnan(estimate.value):
        return "unknown"
    if percent:
        value, low, high = (100 * number for number in estimate[:3])
        return f"{value:.1f}% ({low:.1f}-{high:.1f})"
    over_targets = f"±{estimate.spread:.3f}" if spread else ""
    return f"{estimate.value:.3f}{over_targets} ({estimate.low:.3f}-{estimate.high:.3f})"


def show_difference(estimate: Estimate) -> str:
    """A difference, with its sign: -0.021 (-0.031 to -0.011)."""
    return f"{estimate.value:+z.3f} ({estimate.low:+z.3f} to {estimate.high:+z.3f})"


def show_p(p: float) -> str:
    """A p-value: 0.031, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
