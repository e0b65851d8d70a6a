"""Every attack on a variant with every kind of knowledge: a game in, scores and rows out."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS
from attacks.game import Game, Knowledge, Shadows, by_shadows
from attacks.metrics.intervals import Summary, curve_metrics, summarise
from attacks.metrics.roc import roc
from attacks.quantile import FEWEST

Metric = Literal["auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"]
FPR_GRID = torch.logspace(-4, 0, 161, dtype=torch.float64)
WORDS = {  # fields of `ModelSignals` to users
    "hinge": "logits",
    "population": "signals on a population",
    "population_hinge": "logits on a population",
    "features": "the images",
    "labels": "the classes",
    "embeddings": "embeddings, which `train.py --record_embeddings true` adds",
    "population_embeddings": "embeddings of a population",
}
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
        strongest: whether this is the strongest attack on the variant by AUC, over all targets.
    """

    variant: str
    knowledge: Knowledge
    attack: str
    summary: Summary
    shadows: int
    tpr: list[float]
    by_target: dict[Metric, list[float]]
    strongest: bool = False


class Scored(NamedTuple):
    """A row, and the scores that it sums up."""

    row: Row
    scores: Float[Tensor, "targets examples"]


def choose_attacks(asked: Sequence[str] | None, game: Game) -> tuple[list[str], list[str]]:
    """Choose the attacks to run: those asked for, or all that the signals suffice for.

    Returns:
        Names in `ATTACKS`, and a note for each default attack that is excluded.

    Raises:
        ValueError: an attack does not exist, or what it needs is not known.
    """
    for name in asked or ():
        if name not in ATTACKS:
            near = get_close_matches(name, ATTACKS, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Take one of {', '.join(ATTACKS)}."
            raise ValueError(f"`--attacks` must name attacks, got `{name}`. {hint}")
    wanted = list(dict.fromkeys(asked or default_attacks(game)))
    needs = {name: " and ".join(lacking(name, game)) for name in wanted}
    excluded = {name: need for name, need in needs.items() if need}
    if asked and excluded:
        name, need = next(iter(excluded.items()))
        raise ValueError(
            f"`{name}` needs {need}, which not every variant has. Leave it out of `--attacks`."
        )
    notes = [f"Note: {name} is excluded: it needs {need}." for name, need in excluded.items()]
    return [name for name in wanted if name not in excluded], notes


def default_attacks(game: Game) -> list[str]:
    """Attacks to run unasked: the default ones, and optional ones of which all needs are known."""
    return [
        name
        for name, attack in ATTACKS.items()
        if attack.default or (attack.optional and not lacking(name, game))
    ]


def lacking(attack: str, game: Game) -> list[str]:
    """What an attack needs that is not known, in words."""
    missing = []
    for field in ATTACKS[attack].needs:
        signals = [getattr(known, field) for known in game.signals.values()]
        if any(signal is None for signal in signals):
            missing.append(WORDS[field])
        elif field == "population_hinge" and signals[0].shape[-1] < FEWEST:
            missing.append(f"a population of {FEWEST}")
    members = game.members
    sides = zip(ATTACKS[attack].sides, (members, ~members), ("with", "without"), strict=True)
    for least, side, word in sides:
        if least and any(int(side[shadows].sum(0).min()) < least for _, shadows in game.cases):
            missing.append(f"{least} shadow{'s' if least > 1 else ''} {word} each example")
    return missing


def score(
    attacks: Sequence[str], game: Game, variant: str, shadow_variant: str
) -> dict[str, Float[Tensor, "targets examples"]]:
    """Membership scores of every audited model by several attacks.

    Args:
        attacks: names in `ATTACKS`.
        game: signals, membership and cases.
        variant: what is attacked.
        shadow_variant: what the attacker's shadows are.
    """
    targets, shadows, members = game.signals[variant], game.signals[shadow_variant], game.members
    shape = len(game.cases), members.shape[1]
    scores = {attack: torch.empty(shape, dtype=torch.float64) for attack in attacks}
    _, queries, examples = targets.phi.shape
    together = max(1, _CHUNK // (queries * examples))
    for group, positions in by_shadows(game.cases).items():
        against = Shadows(shadows.of(list(group)), members[list(group)])
        for batch in torch.split(torch.tensor(positions), together):
            target = targets.of([game.cases[position].target for position in batch.tolist()]).read()
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
    plans: list[tuple[Knowledge, list[str], str]] = [("none", alone, variant)]
    plans += [(kind, others, shadow) for kind, shadow in game.shadow_variants(variant).items()]
    made = []
    for knowledge, names, shadow in plans:
        for attack, scores in score(names, game, variant, shadow).items():
            shadows = 0 if knowledge == "none" else len(game.cases[0].shadows)
            summary, tpr = summarise(scores, game.audited), mean_curve(scores, game.audited)
            per_target = by_target(scores, game.audited)
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


def by_target(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> dict[Metric, list[float]]:
    """Each metric of `Summary` for each target."""
    curves = [roc(row, inside) for row, inside in zip(scores, members, strict=True)]
    values = torch.stack([curve_metrics(curve) for curve in curves], 1)
    return dict(zip(get_args(Metric), values.tolist(), strict=True))
