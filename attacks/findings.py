"""What follows from the scores of all attacks: comparisons, bounds, and who is exposed.

Each function takes the game and the strongest attacks. `reporting/findings.py` registers them with
their tables.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.calibration_set import calibration_auc
from attacks.evaluate import Metric, by_target, lacking, score, tail_metric
from attacks.game import Case, Game, Knowledge, by_shadows
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import Difference, holm, mean_difference, paired_differences
from attacks.metrics.epsilon import EpsilonBound, epsilon_bound, one_run_epsilon
from attacks.metrics.exposure import Change, change, exposure
from attacks.metrics.intervals import Estimate, Summary, mean_auc, summarise
from attacks.slices import Stacked
from attacks.strongest import Kept, Strongest
from attacks.z_scores import ZScores, z_scores

GUESSES = 0.1  # share of the examples that the one-run audit guesses


class Differences(NamedTuple):
    """How much the variants differ, by the strongest attack on each.

    Attributes:
        reference: the variant that others are compared with.
        against_reference: by metric of risk, its value minus that on the reference, for each other
            variant; corrected together.
        beyond_gap: AUC minus that of the gap attack, for each variant that it was run on.
    """

    reference: str
    against_reference: dict[Metric, dict[str, Difference]]
    beyond_gap: dict[str, Difference]


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


class Bounds(NamedTuple):
    """Lower bounds on epsilon of one variant, at 95% confidence.

    Attributes:
        tested: from error rates over targets; None with a single target.
        one_run: mean over targets of each target's one-run audit.
        guesses: of a one-run audit, fixed beforehand.
    """

    tested: EpsilonBound | None
    one_run: float
    guesses: int


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
        examples: exposure of each example; NaN where no target trained on it.
    """

    reference: str
    attack: str
    changes: dict[str, Change]
    variants: list[str]
    examples: Float[Tensor, "variants examples"]


def find_differences(game: Game, best: Strongest) -> Differences:
    """Compare the variants' leakage with the reference's, and with the gap attack's."""
    reference, *others = game.variants
    scores = {variant: kept.scores for variant, kept in best.variants.items()}
    pairs = [(variant, reference) for variant in others]
    against = paired_differences(scores, game.audited, pairs)
    gaps = {f"the gap attack on {v}": k.gap for v, k in best.variants.items() if k.gap is not None}
    pairs = [(v, name) for v in scores if (name := f"the gap attack on {v}") in gaps]
    beyond = paired_differences(scores | gaps, game.audited, pairs)
    tail = tail_metric(best.rows[0].summary)
    shares = {v: torch.tensor(by_target(s, game.audited)[tail]) for v, s in scores.items()}
    rare = []
    for variant in others:
        difference = shares[variant] - shares[reference]
        value = difference.mean().item()
        comparison: tuple[Estimate, float] = Estimate(value, -1.0, 1.0), 1.0
        if len(difference) > 1 and difference.std() > 1e-12:
            comparison = mean_difference(difference)
        rare.append(Difference(variant, reference, *comparison, 1.0))
    corrected = iter(holm([d.p for d in [*against, *rare]]))
    ends: dict[Metric, dict[str, Difference]] = {"auc": {}, tail: {}}
    for end, found in zip(ends.values(), (against, rare), strict=True):
        end.update({d.first: d._replace(p_holm=next(corrected)) for d in found})
    return Differences(
        reference,
        ends,
        {difference.first: difference for difference in beyond},
    )


def find_shadow_differences(game: Game, best: Strongest) -> dict[str, Difference]:
    """AUC of the strongest attack with matched shadows minus that with full-precision shadows."""
    scores, pairs, variants = {}, [], []
    for variant, kept in best.variants.items():
        kinds = kept.by_knowledge
        if "matched" in kinds and "unquantized" in kinds:
            pair = f"{variant}, matched shadows", f"{variant}, full-precision shadows"
            scores[pair[0]], scores[pair[1]] = kinds["matched"], kinds["unquantized"]
            pairs.append(pair)
            variants.append(variant)
    differences = paired_differences(scores, game.audited, pairs)
    return dict(zip(variants, differences, strict=True))


def find_z_scores(game: Game, best: Strongest) -> dict[str, dict[Knowledge, ZScores]]:
    """Where members and non-members stand among each kind of shadows.

    Empty where an example has fewer than two shadows without it.
    """
    return {} if lacking("lira_offline", game) else z_scores(game)


def find_joint_attacks(game: Game, best: Strongest) -> list[JointAttack]:
    """Attack the holders of the reference and another variant, of all, or of those of equal bits.

    Empty where joint LiRA lacks two shadows on a side of an example.
    """
    if lacking("lira_online", game):
        return []  # the other findings do not need this attack
    audited = game.audited
    areas = {variant: _auc(kept.scores, audited).value for variant, kept in best.variants.items()}
    attacks = []
    for variants in _holdings(game.variants):
        phi = Stacked([game.signals[variant].phi for variant in variants])
        scores = torch.empty(audited.shape, dtype=torch.float64)
        for shadows, positions in by_shadows(game.cases).items():
            rows, targets = list(shadows), [game.cases[position].target for position in positions]
            seen = phi[targets][..., :]
            scores[positions] = lira_joint(seen, phi[rows], game.members[rows], "fixed")
        alone = max(variants, key=areas.__getitem__)
        both = {"joint": scores, alone: best.variants[alone].scores}
        (gain,) = paired_differences(both, audited, [("joint", alone)])
        attacks.append(JointAttack(variants, summarise(scores, audited), alone, gain))
    corrected = holm([attack.gain.p for attack in attacks])
    return [
        attack._replace(gain=attack.gain._replace(p_holm=p))
        for attack, p in zip(attacks, corrected, strict=True)
    ]


def _holdings(variants: list[str]) -> list[tuple[str, ...]]:
    """Sets of variants that an attacker may hold together."""
    reference, *others = variants
    held: list[tuple[str, ...]] = [(reference, variant) for variant in others]
    by_bits: dict[str, list[str]] = {}
    for variant in others:
        by_bits.setdefault(variant.partition("-w")[2], []).append(variant)
    held += [tuple(alike) for bits, alike in by_bits.items() if bits and len(alike) > 1]
    if len(others) > 1:
        held.append((reference, *others))
    return held


def find_calibration(game: Game, best: Strongest) -> dict[str, Estimate]:
    """AUC of telling calibration examples from other members, where there are both."""
    areas = {variant: calibration_auc(game, variant) for variant in game.calibrated}
    return {variant: area for variant, area in areas.items() if area is not None}


def find_bounds(game: Game, best: Strongest) -> dict[str, Bounds]:
    """Lower bounds on epsilon of every variant."""
    return {variant: _bound(kept, game.audited) for variant, kept in best.variants.items()}


def _bound(kept: Kept, members: Bool[Tensor, "targets examples"]) -> Bounds:
    guesses = max(2, int(GUESSES * members.shape[1]) // 2 * 2)
    pairs = zip(kept.scores, members, strict=True)
    bounds = [one_run_epsilon(scores, inside, guesses) for scores, inside in pairs]
    tested = epsilon_bound(kept.tested, members) if len(members) > 1 else None
    return Bounds(tested, sum(bounds) / len(bounds), guesses)


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
        fewer = Game({variant: game.signals[variant]}, game.members, cases)
        if not lacking(attack, fewer):  # LiRA needs two shadows on a side for a spread
            scores = score([attack], fewer, variant, variant)[attack]
            points[count] = _auc(scores, game.audited)
    return points


def find_exposures(game: Game, best: Strongest) -> Exposures:
    """Exposure of every example in every variant, and how it changes from the reference."""
    reference, *others = game.variants
    audited = game.audited
    exposures = {variant: exposure(kept.alike, audited) for variant, kept in best.variants.items()}
    changes = {variant: change(exposures[reference], exposures[variant]) for variant in others}
    examples = torch.stack(list(exposures.values()))
    return Exposures(reference, best.attack, changes, list(exposures), examples)


def _auc(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> Estimate:
    return mean_auc(list(zip(scores, members, strict=True)))
