"""What follows from the scores of all attacks: comparisons, and who is exposed.

Each function takes the game and the strongest attacks. `reporting/findings.py` registers them with
their tables.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS
from attacks.calibration_set import calibration_auc
from attacks.choice import FINDINGS, scorable, suffices
from attacks.evaluate import score
from attacks.game import Case, Game, Knowledge, by_shadows, keep_examples
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import Difference, Outcome, holm, paired_differences
from attacks.metrics.exposure import Change, change, exposure, outscored
from attacks.metrics.intervals import Estimate, Summary, mean_auc, summarise
from attacks.metrics.measures import Metric, area
from attacks.shadow_halves import by_shadow_halves, is_round_robin
from attacks.slices import Stacked
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


class JointAttack(NamedTuple):
    """An attacker who holds several variants of one model.

    Attributes:
        variants: which it holds.
        summary: what joint LiRA reveals.
        best: the variant that leaks most by itself.
        gain: AUC beyond that of the strongest attack on `best`.
    """

    variants: tuple[str, ...]
    summary: Summary
    best: str
    gain: Difference


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


def find_joint_attacks(game: Game, best: Strongest) -> list[JointAttack]:
    """Attack the holders of several variants.

    These are the reference and any other, a snapshot and the next, the reference and all snapshots,
    all variants of equal bits, and all there are.

    Empty where joint LiRA lacks two shadows on a side of an example.
    """
    if not scorable(game, FINDINGS["joint_lira"]).all():
        return []  # the other findings do not need this attack
    alone = {v: best.outcome(kept.best["auc"], "auc") for v, kept in best.variants.items()}
    areas = {variant: float(outcome.measured.values.mean()) for variant, outcome in alone.items()}
    attacks = []
    for variants in _holdings(game.variants, game.snapshots):
        scores = _score_jointly(game, variants)
        strongest = max(variants, key=areas.__getitem__)
        halves = None
        if len(game.cases) > 1:
            measure = partial(_measure_jointly, variants)
            halves = by_shadow_halves(game, FINDINGS["joint_lira"], measure)
        joint = Outcome(
            area(scores, game.audited), None if halves is None else halves[0], is_round_robin(game)
        )
        both = {"joint": joint, strongest: alone[strongest]}
        (gain,) = paired_differences(both, [("joint", strongest)])
        summary = summarise(scores, game.audited)
        attacks.append(JointAttack(variants, summary, strongest, gain))
    corrected = holm([attack.gain.p for attack in attacks])
    return [
        attack._replace(gain=attack.gain._replace(p_holm=p))
        for attack, p in zip(attacks, corrected, strict=True)
    ]


def _score_jointly(game: Game, variants: Sequence[str]) -> Float[Tensor, "targets examples"]:
    """Scores of joint LiRA."""
    phi = Stacked([game.signals[variant].phi for variant in variants])
    scores = torch.empty(game.audited.shape, dtype=torch.float64)
    for shadows, positions in by_shadows(game.cases).items():
        rows, targets = list(shadows), [game.cases[position].target for position in positions]
        seen = phi[targets][..., :]
        scores[positions] = lira_joint(seen, phi[rows], game.members[rows], "fixed")
    return scores


def _measure_jointly(variants: Sequence[str], game: Game) -> Float[Tensor, "1 targets"]:
    return area(_score_jointly(game, variants), game.audited).values[None]


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


def _holdings(variants: list[str], snapshots: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of variants that an attacker may hold together."""
    reference, *others = variants
    held: list[tuple[str, ...]] = [(reference, variant) for variant in others]
    held += pairwise(snapshots)
    by_bits: dict[str, list[str]] = {}
    for variant in others:
        by_bits.setdefault(variant.partition("-w")[2], []).append(variant)
    held += [tuple(alike) for bits, alike in by_bits.items() if bits and len(alike) > 1]
    held += [(reference, *snapshots), (reference, *others)]
    return [variants for variants in dict.fromkeys(held) if len(variants) > 1]


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
