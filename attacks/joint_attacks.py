"""What an attacker gains who holds several variants of one model."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.cases import by_shadows
from attacks.choice import FINDINGS, scorable
from attacks.findings import correct_together
from attacks.game import Game
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Summary, summarise
from attacks.metrics.measures import area
from attacks.shadow_halves import by_shadow_halves, is_round_robin
from attacks.slices import Stacked
from attacks.strongest import Strongest

_BITS = re.compile(r"-((?:w|mix|aiq)[\d.].*)")  # of a variant, or the budget they are chosen for


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


def find_joint_attacks(game: Game, best: Strongest) -> list[JointAttack]:
    """Attack the holders of several variants.

    These are the reference and any other, a snapshot and the next, the reference and all snapshots,
    all variants of equal bits, all but the snapshots, and all there are. Holders of a snapshot are
    corrected by themselves, so that more snapshots cost the others no finding.

    Empty where joint LiRA lacks two shadows on a side of an example.
    """
    if not scorable(game, FINDINGS["joint_lira"]).all():
        return []  # the other findings do not need this attack
    alone = {v: best.outcome(kept.best["auc"], "auc") for v, kept in best.variants.items()}
    areas = {variant: float(outcome.measured.values.mean()) for variant, outcome in alone.items()}
    attacks, snapshots = [], {*game.snapshots}
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
    gains = {str(row): attack.gain for row, attack in enumerate(attacks)}
    apart = [str(row) for row, attack in enumerate(attacks) if snapshots & {*attack.variants}]
    corrected = correct_together({"auc": gains}, apart)["auc"].values()
    return [attack._replace(gain=gain) for attack, gain in zip(attacks, corrected, strict=True)]


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


def _holdings(variants: list[str], snapshots: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of variants that an attacker may hold together."""
    reference, *others = variants
    held: list[tuple[str, ...]] = [(reference, variant) for variant in others]
    held += pairwise(snapshots)
    by_bits: dict[str, list[str]] = {}
    for variant in others:
        by_bits.setdefault("".join(_BITS.split(variant, maxsplit=1)[1:]), []).append(variant)
    held += [tuple(alike) for bits, alike in by_bits.items() if bits and len(alike) > 1]
    states = [variant for variant in others if variant not in snapshots]
    held += [(reference, *snapshots), (reference, *states), (reference, *others)]
    return [variants for variants in dict.fromkeys(held) if len(variants) > 1]
