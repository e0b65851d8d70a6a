"""Variants beside networks of equal accuracy on a curve, such as that of training stopped early."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.equal_accuracy import Equal, Outside, compare_at, find_equal
from attacks.game import Curve, Game
from attacks.metrics.differences import Difference, Outcome, holm
from attacks.metrics.measures import Metric
from attacks.strongest import Strongest


class Beside(NamedTuple):
    """One variant beside a curve.

    Attributes:
        outside: where the variant lies beyond the curve; then it is not compared.
        place: as of `Equal`; NaN outside.
        stretch: the two variants of the curve between which the networks of equal accuracy lie.
        differences: by risk metric, what the curve leaks at `place` minus what the variant leaks.
    """

    outside: Outside
    place: float
    stretch: tuple[str, str]
    differences: dict[Metric, Difference]


class Frontier(NamedTuple):
    """A curve, and the variants that are compared with it.

    Attributes:
        variants: those of the curve, in its order.
        beside: the compared variants.
    """

    variants: list[str]
    beside: dict[str, Beside]


def find_frontiers(game: Game, best: Strongest) -> dict[str, Frontier]:
    """Compare variants with networks of equal accuracy on each curve; by the curve's name.

    p is corrected for all variants, curves and risk metrics together. Curves and variants of
    unknown accuracy are left out.
    """
    found = {
        curve.name: _follow(curve, game.accuracy, best)
        for curve in game.curves
        if len(curve.variants) > 1 and all(v in game.accuracy for v in curve.variants)
    }
    besides = [beside for frontier in found.values() for beside in frontier.beside.values()]
    corrected = iter(holm([d.p for beside in besides for d in beside.differences.values()]))

    def correct(beside: Beside) -> Beside:
        known = beside.differences.items()
        return beside._replace(
            differences={m: d._replace(p_holm=next(corrected)) for m, d in known}
        )

    return {
        name: frontier._replace(beside={v: correct(own) for v, own in frontier.beside.items()})
        for name, frontier in found.items()
    }


def _follow(curve: Curve, accuracy: Mapping[str, Tensor], best: Strongest) -> Frontier:
    """One curve, before correction for the number of comparisons."""
    names, path = list(curve.variants), torch.stack([accuracy[v] for v in curve.variants])

    def outcome(variant: str, metric: Metric) -> Outcome:
        return best.outcome(best.variants[variant].best[metric], metric)

    points = {metric: [outcome(variant, metric) for variant in names] for metric in best.risks}
    beside = {}
    for variant in (variant for variant in curve.against if variant in accuracy):
        own, differences = accuracy[variant], {}
        equal = find_equal(path, own)
        if not equal.outside:
            differences = {
                metric: compare_at(equal, known, path, outcome(variant, metric), own)._replace(
                    first=curve.name, second=variant
                )
                for metric, known in points.items()
            }
        beside[variant] = set_beside(names, equal, differences)
    return Frontier(names, beside)


def set_beside(
    variants: Sequence[str], equal: Equal, differences: dict[Metric, Difference]
) -> Beside:
    """Name the stretch of a curve's variants on which networks of equal accuracy lie."""
    stretch = "", ""
    if equal.pieces:
        stretch = variants[equal.pieces[0]], variants[equal.pieces[-1] + 1]
    return Beside(equal.outside, equal.place, stretch, differences)
