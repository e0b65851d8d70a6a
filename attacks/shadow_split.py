"""What quantizing the shadows is worth to an attacker who could do something cheaper."""

from itertools import pairwise
from typing import NamedTuple

from attacks.findings import correct_together
from attacks.game import Game
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Metric
from attacks.strongest import Kept, Strongest

RUNGS = {  # attackers, each better equipped than the one before, by what is new
    "paper": "online LiRA with full-precision shadows",
    "attack": "full-precision shadows",
    "recalibration": "recalibrated shadows",
    "quantizing": "matched shadows",
}


class ShadowSplit(NamedTuple):
    """Steps from the paper's attack on one variant to the strongest with matched shadows.

    The steps add up: `paper` and all of them are `matched`.

    Attributes:
        paper: what online LiRA with full-precision shadows finds; None if it was not run.
        attack: gain of the strongest attack with these shadows; None if `paper` is.
        recalibration: gain of the strongest attack with recalibrated shadows beyond that; None
            without a population, and then part of the next step.
        quantizing: gain of the strongest attack with matched shadows beyond that.
        matched: what the strongest attack with matched shadows finds.
    """

    paper: Estimate | None
    attack: Difference | None
    recalibration: Difference | None
    quantizing: Difference
    matched: Estimate


def find_shadow_differences(game: Game, best: Strongest) -> dict[Metric, dict[str, ShadowSplit]]:
    """Split what quantizing the shadows is worth, for variants attacked with both kinds of shadows.

    Each step compares the same targets, by the strongest attack of each kind by that metric, and p
    is corrected for all steps by both metrics on all variants, on snapshots by themselves.
    """
    ladders = {
        metric: {
            variant: ladder
            for variant, kept in best.variants.items()
            if (ladder := _ladder(best, kept, metric))
        }
        for metric in best.risks
    }
    gains: dict[Metric, dict[str, Difference]] = {}
    snapshots: set[str] = set()
    for metric, by_variant in ladders.items():
        outcomes: dict[str, Outcome] = {}
        pairs: list[tuple[str, str]] = []
        for variant, ladder in by_variant.items():
            named = {f"{variant}, {RUNGS[step]}": rung for step, rung in ladder.items()}
            outcomes |= named
            snapshots |= named.keys() if variant in game.snapshots else set()
            pairs += [(upper, lower) for lower, upper in pairwise(named)]
        gains[metric] = {gain.first: gain for gain in paired_differences(outcomes, pairs)}
    gains = correct_together(gains, apart=snapshots)
    return {
        metric: {v: _split(v, ladder, gains[metric]) for v, ladder in by_variant.items()}
        for metric, by_variant in ladders.items()
    }


def _split(variant: str, ladder: dict[str, Outcome], gains: dict[str, Difference]) -> ShadowSplit:
    paper = two_way(ladder["paper"].measured) if "paper" in ladder else None
    attack = gains.get(f"{variant}, {RUNGS['attack']}")
    recalibration = gains.get(f"{variant}, {RUNGS['recalibration']}")
    quantizing = gains[f"{variant}, {RUNGS['quantizing']}"]
    matched = two_way(ladder["quantizing"].measured)
    return ShadowSplit(paper, attack, recalibration, quantizing, matched)


def _ladder(best: Strongest, kept: Kept, metric: Metric) -> dict[str, Outcome]:
    """What each attacker in `RUNGS` achieves; empty without both kinds of shadows."""
    kinds = {kind: by_metric[metric] for kind, by_metric in kept.by_knowledge.items()}
    if "matched" not in kinds or "unquantized" not in kinds:
        return {}
    rungs = {
        "paper": kept.paper,
        "attack": kinds["unquantized"],
        "recalibration": kinds.get("recalibrated"),
        "quantizing": kinds["matched"],
    }
    return {step: best.outcome(rung, metric) for step, rung in rungs.items() if rung is not None}
