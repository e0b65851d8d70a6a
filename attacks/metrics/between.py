"""Whether the targets of one experiment leak more than those of another, paired or not."""

from collections.abc import Sequence
from math import nan

from jaxtyping import Float
from torch import Tensor

from attacks.metrics.differences import (
    ROUNDING,
    Outcome,
    VarianceComponent,
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
    times = max(_times(first), _times(second))
    return _test(float(values.mean()), [(values, times)], [first, second])


def welch(first: Outcome, second: Outcome) -> tuple[Estimate, float]:
    """Difference of the means of other targets, first - second, with its 95% interval and p-value.

    The variance that either draw of shadows adds is counted, too, as far as it is known.

    All but the difference is NaN if either has a single target, or if neither has any spread.

    Source: Welch 1947, doi:10.2307/2332510, with Satterthwaite's degrees of freedom.
    """
    samples = [(outcome.measured.values, _times(outcome)) for outcome in (first, second)]
    value = float(first.measured.values.mean() - second.measured.values.mean())
    return _test(value, samples, [first, second])


def _times(outcome: Outcome) -> int:
    """How often the variance over targets counts, as `variance_of_mean` explains.

    Twice where the targets are the shadows and no halves are known, because every pair of models is
    compared twice.
    """
    return 2 if outcome.round_robin and outcome.halves is None else 1


def _test(
    value: float,
    samples: Sequence[tuple[Float[Tensor, " _"], int]],
    outcomes: Sequence[Outcome],
) -> tuple[Estimate, float]:
    """Test a sum or difference of the samples' means, with what each variance counts, against 0."""
    if min(len(s) for s, _ in samples) < 2 or all(float(s.std()) <= ROUNDING for s, _ in samples):
        return Estimate(value, nan, nan), nan
    parts = [
        VarianceComponent(times * float(s.var()) / len(s), len(s) - 1.0) for s, times in samples
    ]
    parts += [part for part in map(over_shadows, outcomes) if part is not None]
    error = sum(part for part, _ in parts) ** 0.5
    return student_interval(value, error, satterthwaite(parts))
