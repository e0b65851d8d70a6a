"""Every attack on a variant with every kind of knowledge: a game in, scores and rows out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS
from attacks.cases import by_shadows
from attacks.game import Game, Knowledge
from attacks.metrics.intervals import Summary, summarise
from attacks.metrics.measures import Metric, measure
from attacks.metrics.roc import roc

FEW = 10  # a TPR that rests on fewer false positives proves little
FPR_GRID = torch.logspace(-4, 0, 161, dtype=torch.float64)
_CHUNK = 1 << 22  # signals of targets scored at once; float64 and its temporaries take 0.2 GB


class Row(NamedTuple):
    """What one attack achieves against one variant.

    Attributes:
        variant: the variant that is attacked.
        knowledge: what the attacker's shadows went through.
        attack: its name in `ATTACKS`.
        summary: mean over targets.
        shadows: how many the attacker has.
        tpr: mean TPR at `FPR_GRID`.
        by_target: each metric of each target, by which two rows can be compared in pairs.
        strongest: the risk metrics by which this is the strongest attack on the variant, over all
            targets: AUC, and `tail_metric`.
        halves: what either half of the shadows finds, as `Outcome.halves` has it, by the risk
            metrics; empty if no comparison takes this attack, and None where it is unknown.
    """

    variant: str
    knowledge: Knowledge
    attack: str
    summary: Summary
    shadows: int
    tpr: list[float]
    by_target: dict[Metric, list[float]]
    strongest: tuple[Metric, ...] = ()
    halves: Mapping[Metric, list[list[float]] | None] = {}


class Scored(NamedTuple):
    """A row, and the scores that it sums up."""

    row: Row
    scores: Float[Tensor, "targets examples"]


def score(
    attacks: Sequence[str], game: Game, variant: str, knowledge: Knowledge = "matched"
) -> dict[str, Float[Tensor, "targets examples"]]:
    """Membership scores of every audited model by several attacks.

    Args:
        attacks: names in `ATTACKS`.
        game: signals, membership and cases.
        variant: what is attacked.
        knowledge: one of `game.shadow_variants`, or `none` for attacks without shadows.
    """
    targets, shadow_variant = game.signals[variant], variant
    if knowledge != "none":
        shadow_variant = game.shadow_variants(variant)[knowledge]
    shape = len(game.cases), game.members.shape[1]
    scores = {attack: torch.empty(shape, dtype=torch.float64) for attack in attacks}
    _, queries, examples = targets.phi.shape
    together = max(1, _CHUNK // (queries * examples))
    for group, positions in by_shadows(game.cases).items():
        against = game.shadows(shadow_variant, group, positions[0])
        for batch in torch.split(torch.tensor(positions), together):
            target = targets.of([game.cases[position].target for position in batch.tolist()]).read()
            if knowledge == "recalibrated":
                target = against.recalibrate(target)
            for attack, filled in scores.items():
                filled[batch] = ATTACKS[attack].run(target, against)
    return scores


def evaluate(game: Game, variant: str, attacks: Sequence[str]) -> list[Scored]:
    """Attack one variant with every kind of knowledge.

    Args:
        game: signals, membership and cases.
        variant: what is attacked.
        attacks: names in `ATTACKS`.

    Returns:
        A row for each kind of knowledge and attack, with its scores. An attack that uses no shadows
        has knowledge `none`.
    """
    alone = [attack for attack in attacks if not ATTACKS[attack].shadows]
    others = [attack for attack in attacks if ATTACKS[attack].shadows]
    plans: list[tuple[Knowledge, list[str]]] = [("none", alone)]
    plans += [(knowledge, others) for knowledge in game.shadow_variants(variant)]
    made = []
    for knowledge, names in plans:
        for attack, scores in score(names, game, variant, knowledge).items():
            shadows = 0 if knowledge == "none" else len(game.cases[0].shadows)
            measured = measure(scores, game.audited)
            summary = summarise(scores, game.audited, measured=measured)
            per_target = {metric: known.values.tolist() for metric, known in measured.items()}
            tpr = mean_curve(scores, game.audited)
            row = Row(variant, knowledge, attack, summary, shadows, tpr, per_target)
            made.append(Scored(row, scores))
    return made


def mean_curve(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> list[float]:
    """TPR at each FPR of `FPR_GRID`, averaged over targets; their thresholds differ."""
    curves = [roc(row, inside) for row, inside in zip(scores, members, strict=True)]
    # the last point of each curve that is not right of the grid's, rounding aside
    points = [torch.searchsorted(c.fpr, FPR_GRID + 1e-12, right=True) - 1 for c in curves]
    rates = [curve.tpr[point] for curve, point in zip(curves, points, strict=True)]
    mean: list[float] = torch.stack(rates).mean(0).tolist()
    return mean


def tail_metric(summary: Summary) -> Metric:
    """The TPR at the lowest FPR that rests on `FEW` false positives of all targets together.

    TPR at 0.1% FPR shows a leak of few examples best; on fewer false positives it shows chance.
    """
    return "tpr_01pct" if summary.false_positives_01pct >= FEW else "tpr_1pct"
