"""What follows from the scores of all attacks: comparisons, and who is exposed.

Each function takes the game and the strongest attacks. `reporting/findings.py` registers them with
their tables.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS
from attacks.calibration_set import calibration_auc
from attacks.cases import Case
from attacks.choice import FINDINGS, scorable, suffices
from attacks.evaluate import score
from attacks.game import Game, Knowledge, keep_examples
from attacks.metrics.differences import Difference, holm, paired_differences
from attacks.metrics.exposure import Change, change, exposure, outscored
from attacks.metrics.intervals import Estimate, mean_auc
from attacks.metrics.measures import Metric
from attacks.strongest import Strongest
from attacks.z_scores import ZScores, z_scores


class Differences(NamedTuple):
    """How much the variants differ, by the strongest attack on each.

    Attributes:
        reference: the variant that others are compared with.
        against_reference: by risk metric, AUC first, the metric minus that on the reference, for
            each other variant; p is corrected for both metrics together.
        beyond_gap: AUC minus that of the gap attack, for each variant that it was run on.
        snapshots: the variants on the way to the reference, whose p are corrected by themselves.
    """

    reference: str
    against_reference: dict[Metric, dict[str, Difference]]
    beyond_gap: dict[str, Difference]
    snapshots: Sequence[str] = ()


class Convergence(NamedTuple):
    """AUC of the strongest attack with matched shadows, by the number of shadows that it has."""

    attack: str
    points: dict[int, Estimate]


class Exposures(NamedTuple):
    """Who is exposed, by one attack on all variants.

    Attributes:
        reference: the variant that others are compared with.
        attack: the strongest attack on the reference, with matched shadows if it uses any.
        changes: of exposures, against the reference, for each other variant.
        variants: the rows of `examples`.
        examples: exposure of each example of the pool; NaN where no target trained on it, or where
            it was left out.
        kept: which examples of the pool were not left out.
    """

    reference: str
    attack: str
    changes: dict[str, Change]
    variants: list[str]
    examples: Float[Tensor, "variants pool"]
    kept: Bool[Tensor, " pool"]


def find_differences(game: Game, best: Strongest) -> Differences:
    """Compare the variants' leakage with the reference's, and with the gap attack's."""
    reference, *others = game.variants
    pairs = [(variant, reference) for variant in others]
    against: dict[Metric, dict[str, Difference]] = {}
    for metric in best.risks:
        outcomes = {v: best.outcome(kept.best[metric], metric) for v, kept in best.variants.items()}
        found = paired_differences(outcomes, pairs)
        against[metric] = {difference.first: difference for difference in found}
    areas = {v: best.outcome(kept.best["auc"], "auc") for v, kept in best.variants.items()}
    gaps = {
        f"the gap attack on {variant}": best.outcome(kept.gap, "auc")
        for variant, kept in best.variants.items()
        if kept.gap is not None
    }
    pairs = [(v, name) for v in areas if (name := f"the gap attack on {v}") in gaps]
    beyond = {d.first: d for d in paired_differences(areas | gaps, pairs)}
    return Differences(
        reference,
        correct_together(against, apart=game.snapshots),
        correct_together({"auc": beyond}, apart=game.snapshots)["auc"],
        game.snapshots,
    )


def find_z_scores(game: Game, best: Strongest) -> dict[str, dict[Knowledge, ZScores]]:
    """Where members and non-members stand among each kind of shadows.

    Empty where an example has fewer than two shadows without it.
    """
    return z_scores(game) if scorable(game, FINDINGS["z_scores"]).all() else {}


def correct_together(
    differences: Mapping[Metric, Mapping[str, Difference]], apart: Collection[str] = ()
) -> dict[Metric, dict[str, Difference]]:
    """Correct the p-values of several metrics' comparisons for the number of all of them.

    Args:
        differences: by metric and name.
        apart: names whose comparisons are corrected by themselves, as those of snapshots, which
            would otherwise cost the other variants findings.
    """
    corrected: dict[Metric, dict[str, Difference]] = {m: dict(g) for m, g in differences.items()}
    for inside in (False, True):
        family = [
            (metric, name)
            for metric, group in differences.items()
            for name in group
            if (name in apart) is inside
        ]
        values = holm([differences[metric][name].p for metric, name in family])
        for (metric, name), p in zip(family, values, strict=True):
            corrected[metric][name] = differences[metric][name]._replace(p_holm=p)
    return corrected


def find_calibration(game: Game, best: Strongest) -> dict[str, Estimate]:
    """AUC of telling calibration examples from other members, where there are both."""
    areas = {variant: calibration_auc(game, variant) for variant in game.calibrated}
    return {variant: area for variant, area in areas.items() if area is not None}


def find_convergence(game: Game, best: Strongest) -> dict[str, Convergence]:
    """How the strongest attack with matched shadows grows with the number of shadows."""
    return {
        variant: Convergence(kept.matched, _converge(game, variant, kept.matched))
        for variant, kept in best.variants.items()
        if kept.matched
    }


def _converge(game: Game, variant: str, attack: str) -> dict[int, Estimate]:
    """AUC of an attack with matched shadows by how many of them it has: 2, 4, 8, ... all."""
    most = len(game.cases[0].shadows)
    points = {}
    for count in [*(2**k for k in range(1, most.bit_length()) if 2**k < most), most]:
        cases = [Case(target, shadows[:count]) for target, shadows in game.cases]
        # RMIA keeps the `a` that was tuned on all shadows
        fewer = game._replace(signals={variant: game.signals[variant]}, cases=cases)
        usable = scorable(fewer, ATTACKS[attack].sides)
        if suffices(usable, fewer):  # LiRA needs two shadows on a side for a spread
            part = keep_examples(fewer, usable)
            scores = score([attack], part, variant)[attack]
            points[count] = _auc(scores, part.audited)
    return points


def find_exposures(game: Game, best: Strongest) -> Exposures:
    """Exposure of every example in every variant, and how it changes from the reference."""
    reference, *others = game.variants
    audited, alike = game.audited, {v: kept.alike for v, kept in best.variants.items()}
    before = outscored(alike[reference], audited)
    changes = {v: change(before, outscored(alike[v], audited), audited) for v in others}
    known = torch.stack([exposure(scores, audited) for scores in alike.values()])
    kept = torch.ones(known.shape[1], dtype=torch.bool) if game.kept is None else game.kept
    examples = known.new_full((len(known), len(kept)), torch.nan)
    examples[:, kept] = known
    return Exposures(reference, best.attack, changes, list(alike), examples, kept)


def _auc(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Estimate:
    return mean_auc(list(zip(scores, members, strict=True)))
