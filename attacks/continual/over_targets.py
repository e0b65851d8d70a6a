"""Mean over targets of what is known of each as one number, without its examples."""

from math import nan

from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from attacks.metrics.intervals import CONFIDENCE, Estimate


def over_targets(
    values: Float[Tensor, " targets"], limits: tuple[float, float] = (0.0, 1.0)
) -> Estimate:
    """Mean with Student's interval over targets; of a single target there is none (NaN).

    Args:
        values: one number per target.
        limits: smallest and largest number that is possible.
    """
    mean, count = values.mean().item(), len(values)
    if count < 2:
        return Estimate(mean, nan, nan)
    margin = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * values.std().item() / count**0.5
    low, high = max(mean - margin, limits[0]), min(mean + margin, limits[1])
    return Estimate(mean, low, high, values.std(correction=0).item())
