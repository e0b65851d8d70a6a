"""Whether the targets of one experiment leak more than those of another, paired or not."""

from collections.abc import Sequence
from math import nan

from jaxtyping import Float
from torch import Tensor

from attacks.metrics.differences import (
    ROUNDING,
    Outcome,
    Part,
    over_shadows,
    satterthwaite,
    student_interval,
)
from attacks.metrics.intervals import Estimate


def paired(first: Outcome, second: Outcome) -> tuple[Estimate, float]:
    """Mean difference of the same targets, first - second, with its 95% interval and p-value.

    Student's t over the targets, whose variance is increased by what either draw of shadows adds,
    as far as that is known. It counts the draws as independent. Where two fleets of one seed draw
    the same halves for their shadows, some of it cancels, and the test finds less than it could.

    All but the difference is NaN if there is a single target, or if all differ by the same amount.
    """
    values = first.measured.values - second.measured.values
    return _test(float(values.mean()), [values], [first, second])


def welch(first: Outcome, second: Outcome) -> tuple[Estimate, float]:
    """Difference of the means of other targets, first - second, with its 95% interval and p-value.

    The variance that either draw of shadows adds is counted, too, as far as it is known.

    All but the difference is NaN if either has a single target, or if neither has any spread.

    Source: Welch 1947, doi:10.2307/2332510, with Satterthwaite's degrees of freedom.
    """
    samples = [first.measured.values, second.measured.values]
    value = float(samples[0].mean() - samples[1].mean())
    return _test(value, samples, [first, second])


def _test(
    value: float, samples: Sequence[Float[Tensor, " _"]], outcomes: Sequence[Outcome]
) -> tuple[Estimate, float]:
    """Test a sum or difference of the samples' means against 0."""
    if min(map(len, samples)) < 2 or all(float(s.std()) <= ROUNDING for s in samples):
        return Estimate(value, nan, nan), nan
    parts = [Part(float(sample.var()) / len(sample), len(sample) - 1.0) for sample in samples]
    parts += [part for part in map(over_shadows, outcomes) if part is not None]
    error = sum(part for part, _ in parts) ** 0.5
    return student_interval(value, error, satterthwaite(parts))
