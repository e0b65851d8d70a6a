"""Where on a curve networks are as accurate as a variant, and what they leak beside it."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import ceil, nan
from typing import Literal, NamedTuple

from jaxtyping import Float
from scipy.stats import ttest_1samp
from torch import Tensor

from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.measures import Measured

LEVEL = 0.05  # of the tests whether two accuracies differ
_ROUNDING = 1e-12
Accuracies = Float[Tensor, "points targets"]
Outside = Literal["", "below", "above"]


class Equal(NamedTuple):
    """Where a curve is as accurate as a variant.

    Attributes:
        outside: `below` where the variant's mean accuracy is less than that of the curve's first
            point, `above` where it is shown to be above that of every point.
        place: of the first point with the variant's mean accuracy: 1.5 is halfway from the second
            to the third variant of the curve. Of the most accurate point, where none has it.
        pieces: the straight pieces of the curve, by their first points, that hold `place` or
            another point whose accuracy is not shown to differ.
    """

    outside: Outside
    place: float
    pieces: list[int]


def first_crossing(path: Sequence[float], value: float) -> float:
    """The first place where straight lines through a path reach a value; its peak, if none does."""
    if value > max(path):
        return float(path.index(max(path)))
    end = next(place for place, height in enumerate(path) if height >= value)
    if end == 0:
        return 0.0
    start, stop = path[end - 1], path[end]
    return end - 1 + (value - start) / (stop - start)


def find_equal(path: Accuracies, own: Float[Tensor, " targets"]) -> Equal:
    """Find where a curve is as accurate as a variant, and where it may be.

    The place follows from mean accuracies. Places whose accuracy is not shown to differ from the
    variant's, by Student's t over the targets, may be the true one: all earlier ones, and later
    ones up to the first at which the curve is shown to differ. The accuracy of a single target is
    taken as known.
    """
    means, value = path.mean(1).tolist(), float(own.mean())
    if value < means[0]:
        return Equal("below", nan, [])
    place = first_crossing(means, value)
    if value > max(means) and _differ(path[int(place)], own):
        return Equal("above", nan, [])

    here = max(ceil(place) - 1, 0)  # all earlier points are less accurate
    near = [not _differ(point, own) for point in path]
    before = [piece for piece in range(here) if near[piece] or near[piece + 1]]
    after = takewhile(near.__getitem__, range(here + 1, len(path) - 1))
    return Equal("", place, [*before, here, *after])


def compare_at(
    equal: Equal,
    points: Sequence[Outcome],
    path: Accuracies,
    outcome: Outcome,
    own: Float[Tensor, " targets"],
) -> Difference:
    """Compare a variant with networks of equal accuracy, wherever on the curve these may be.

    It is compared with every piece of `equal`, and the largest p and the union of the intervals
    count: the variant is shown to leak less only if it leaks less than all of them. At each
    target's own first crossing instead, a difference is found where there is none in up to 90% of
    simulations in which accuracy hardly rises while leakage does (`benchmarks/frontier.py`).

    Args:
        equal: where the curve is as accurate as the variant.
        points: outcomes of the curve's variants, by one metric.
        path: their accuracies.
        outcome: that of the variant.
        own: its accuracy.
    """
    curve = networks_at(equal, points, path, own)
    named = {str(position): there for position, there in enumerate(curve)}
    return shown_by_all(
        paired_differences({**named, "own": outcome}, [(name, "own") for name in named])
    )


def networks_at(
    equal: Equal, points: Sequence[Outcome], path: Accuracies, own: Float[Tensor, " targets"]
) -> list[Outcome]:
    """What networks of equal accuracy leak, wherever on a curve they may be; at `place` first."""
    here = max(ceil(equal.place) - 1, 0)
    pieces = [here, *(piece for piece in equal.pieces if piece != here)]
    return [there for piece in pieces for there in _on_piece(equal, points, path, own, piece)]


def shown_by_all(found: Sequence[Difference]) -> Difference:
    """The first of several differences, with the largest p and the union of the intervals."""
    estimates = [difference.estimate for difference in found]
    one_sided = len({estimate.value > 0 for estimate in estimates}) == 1
    p = max(difference.p for difference in found) if one_sided else 1.0
    estimate = estimates[0]._replace(
        low=min(estimate.low for estimate in estimates),
        high=max(estimate.high for estimate in estimates),
    )
    return found[0]._replace(estimate=estimate, p=p, p_holm=p)


def _on_piece(
    equal: Equal,
    points: Sequence[Outcome],
    path: Accuracies,
    own: Float[Tensor, " targets"],
    piece: int,
) -> Iterator[Outcome]:
    """What networks of equal accuracy on one piece of a curve leak.

    The piece is a line, along which each target's outcome is moved from where the means are nearest
    to the variant's accuracy on that target. So a target that is better by chance, and leaks more
    for it, is no evidence. Where the ends of the piece are not shown to differ in accuracy, the
    line has no slope that is known: then both ends count.
    """
    first, second = points[piece : piece + 2]
    if _differ(path[piece], path[piece + 1]):
        share = _share(path, own, piece)
        there = _mix_outcomes(first, second, share)
        rise = float((second.measured.values - first.measured.values).mean())
        slope = rise / float((path[piece + 1] - path[piece]).mean())
        missing = own - _mix(path[piece], path[piece + 1], share)
        values = there.measured.values + slope * missing
        yield there._replace(measured=there.measured._replace(values=values))
        return
    if 0 <= equal.place - piece <= 1:
        yield _mix_outcomes(first, second, equal.place - piece)
    yield first
    yield second


def _share(path: Accuracies, own: Float[Tensor, " targets"], piece: int) -> float:
    """How far along a piece its mean accuracy is nearest to the variant's, from 0 to 1."""
    start, stop, value = (float(accuracy.mean()) for accuracy in (*path[piece : piece + 2], own))
    return min(max((value - start) / (stop - start), 0.0), 1.0) if start != stop else 0.0


def _mix(first: Tensor, second: Tensor, share: float) -> Tensor:
    return (1 - share) * first + share * second


def _mix_outcomes(first: Outcome, second: Outcome, share: float) -> Outcome:
    """The outcome on a straight line between two, which keeps its parts due to every example."""
    parts = zip(first.measured, second.measured, strict=True)
    measured = Measured(*(_mix(a, b, share) for a, b in parts))
    if first.halves is None or second.halves is None:
        return Outcome(measured, None, first.round_robin)
    return Outcome(measured, _mix(first.halves, second.halves, share), first.round_robin)


def _differ(first: Float[Tensor, " targets"], second: Float[Tensor, " targets"]) -> bool:
    """Whether two accuracies on the same targets are shown to differ."""
    gaps = first - second
    if len(gaps) < 2 or float(gaps.std(correction=0)) <= _ROUNDING:
        return abs(float(gaps.mean())) > _ROUNDING
    return float(ttest_1samp(gaps.numpy(), 0).pvalue) < LEVEL
