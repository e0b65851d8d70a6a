"""What quantizing the shadows is worth to an attacker who could do something cheaper."""

from itertools import pairwise
from typing import NamedTuple

from attacks.game import Game
from attacks.metrics.differences import Difference, paired_differences
from attacks.metrics.intervals import Estimate, mean_auc
from attacks.strongest import Kept, Scores, Strongest

RUNGS = {  # attackers, each better equipped than the one before, by what is new
    "paper": "online LiRA with full-precision shadows",
    "attack": "full-precision shadows",
    "recalibration": "recalibrated shadows",
    "quantizing": "matched shadows",
}


class ShadowSplit(NamedTuple):
    """Steps from the paper's attack on one variant to the strongest with matched shadows, in AUC.

    The steps add up: `paper` and all of them are `matched`.

    Attributes:
        paper: AUC of online LiRA with full-precision shadows; None if it was not run.
        attack: gain of the strongest attack with these shadows; None if `paper` is.
        recalibration: gain of the strongest attack with recalibrated shadows beyond that; None
            without a population, and then part of the next step.
        quantizing: gain of the strongest attack with matched shadows beyond that.
        matched: AUC of the strongest attack with matched shadows.
    """

    paper: Estimate | None
    attack: Difference | None
    recalibration: Difference | None
    quantizing: Difference
    matched: Estimate


def find_shadow_differences(game: Game, best: Strongest) -> dict[str, ShadowSplit]:
    """Split what quantizing the shadows is worth, for variants attacked with both kinds of shadows.

    Each step compares the same targets, by the strongest attack of each kind, and p is corrected
    for all steps on all variants.
    """
    ladders = {variant: _ladder(kept) for variant, kept in best.variants.items()}
    scores: dict[str, Scores] = {}
    pairs: list[tuple[str, str]] = []
    for variant, ladder in ladders.items():
        named = {f"{variant}, {RUNGS[step]}": rung for step, rung in ladder.items()}
        scores |= named
        pairs += [(upper, lower) for lower, upper in pairwise(named)]
    gains = {gain.first: gain for gain in paired_differences(scores, game.audited, pairs)}
    splits = {}
    for variant, ladder in ladders.items():
        if ladder:
            auc = {
                step: mean_auc(list(zip(ladder[step], game.audited, strict=True)))
                for step in ("paper", "quantizing")
                if step in ladder
            }
            attack, recalibration = (
                gains.get(f"{variant}, {RUNGS[step]}") for step in ("attack", "recalibration")
            )
            quantizing = gains[f"{variant}, {RUNGS['quantizing']}"]
            splits[variant] = ShadowSplit(
                auc.get("paper"), attack, recalibration, quantizing, auc["quantizing"]
            )
    return splits


def _ladder(kept: Kept) -> dict[str, Scores]:
    """Scores of each attacker in `RUNGS` that there is; empty without both kinds of shadows."""
    kinds = kept.by_knowledge
    if "matched" not in kinds or "unquantized" not in kinds:
        return {}
    rungs = {
        "paper": kept.paper,
        "attack": kinds["unquantized"],
        "recalibration": kinds.get("recalibrated"),
        "quantizing": kinds["matched"],
    }
    return {step: scores for step, scores in rungs.items() if scores is not None}
