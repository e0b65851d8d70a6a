"""What an attacker loses whose shadows are those of another experiment."""

from typing import NamedTuple

from attacks.findings import correct_together
from attacks.game import Game
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Metric
from attacks.strongest import Strongest


class OtherShadows(NamedTuple):
    """Two attackers on one variant.

    Attributes:
        other: what the strongest attack with another experiment's shadows finds.
        matched: what the strongest attack with shadows that went through what the target did finds.
        gain: the latter beyond the former.
    """

    other: Estimate
    matched: Estimate
    gain: Difference


def find_other_shadows(game: Game, best: Strongest) -> dict[Metric, dict[str, OtherShadows]]:
    """Compare matched shadows with those of another experiment, where there are any.

    The same targets are compared, by the strongest attack with each kind of shadows by that metric;
    p is corrected for all variants and both metrics, on snapshots by themselves.
    """
    pairs: dict[Metric, dict[str, tuple[Outcome, Outcome]]] = {
        metric: {
            variant: (
                best.outcome(kept.by_knowledge["matched"][metric], metric),
                best.outcome(kept.by_knowledge["other"][metric], metric),
            )
            for variant, kept in best.variants.items()
            if {"matched", "other"} <= kept.by_knowledge.keys()
        }
        for metric in best.risks
    }
    gains = correct_together(
        {metric: {v: _gain(v, *pair) for v, pair in own.items()} for metric, own in pairs.items()},
        apart=game.snapshots,
    )
    return {
        metric: {
            v: OtherShadows(two_way(other.measured), two_way(matched.measured), gains[metric][v])
            for v, (matched, other) in own.items()
        }
        for metric, own in pairs.items()
    }


def _gain(variant: str, matched: Outcome, other: Outcome) -> Difference:
    named = {variant: matched, f"{variant}, another experiment's shadows": other}
    (difference,) = paired_differences(named, [(variant, [*named][1])])
    return difference
