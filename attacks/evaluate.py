"""Every attack on every variant with both kinds of knowledge: signals in, rows of a table out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS
from attacks.game import Case, Knowledge, Observed, Shadows, by_shadows
from attacks.metrics.intervals import Estimate, Summary, curve_metrics, summarise
from attacks.metrics.roc import roc
from attacks.quantile import FEWEST

Metric = Literal["auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"]
FPR_GRID = torch.logspace(-4, 0, 161, dtype=torch.float64)
WORDS = {  # fields of `Observed` to users
    "hinge": "logits",
    "population": "signals on a population",
    "population_hinge": "logits on a population",
    "features": "the images",
}
_CHUNK = 1 << 22  # signals of targets scored at once; float64 and its temporaries take 0.2 GB


class Row(NamedTuple):
    """What one attack achieves against one variant.

    Attributes:
        variant: the precision that is attacked.
        knowledge: what the attacker's shadows went through.
        attack: its name in `ATTACKS`.
        summary: mean over targets.
        shadows: how many the attacker has.
        curve: mean TPR at `FPR_GRID`.
        by_target: each metric of each target, by which two rows can be compared in pairs.
    """

    variant: str
    knowledge: Knowledge
    attack: str
    summary: Summary
    shadows: int
    curve: list[float]
    by_target: dict[Metric, list[float]]


class Scored(NamedTuple):
    """A row, and the scores that it sums up."""

    row: Row
    scores: Float[Tensor, "targets examples"]


def score(
    attacks: Sequence[str],
    targets: Observed,
    shadows: Observed,
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
) -> dict[str, Float[Tensor, "targets examples"]]:
    """Membership scores of every audited model by several attacks.

    Args:
        attacks: names in `ATTACKS`.
        targets: signals of all models in the variant that is attacked.
        shadows: signals of all models in the variant that the attacker's shadows are.
        members: which model trained on which example.
        cases: who is audited, and by whom.
    """
    shape = len(cases), members.shape[1]
    scores = {attack: torch.empty(shape, dtype=torch.float64) for attack in attacks}
    _, queries, examples = targets.phi.shape
    together = max(1, _CHUNK // (queries * examples))
    for group, positions in by_shadows(cases).items():
        against = Shadows(shadows.of(list(group)), members[list(group)])
        for some in torch.split(torch.tensor(positions), together):
            seen = targets.of([cases[position].target for position in some.tolist()]).read()
            for attack, found in scores.items():
                found[some] = ATTACKS[attack].run(seen, against)
    return scores


def evaluate(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    attacks: Sequence[str],
) -> Iterator[Scored]:
    """Attack every variant with shadows quantized like it, and with full-precision ones.

    Args:
        seen: signals of all models, by variant; those of `full` for full-precision shadows.
        members: which model trained on which example.
        cases: who is audited, and by whom.
        attacks: names in `ATTACKS`.

    Yields:
        A row a variant, knowledge and attack, with its scores. An attack that uses no shadows has
        knowledge `none`; against `full` itself both kinds are the same, and called `matched`.
    """
    audited = members[[case.target for case in cases]]
    alone = [attack for attack in attacks if not ATTACKS[attack].shadows]
    others = [attack for attack in attacks if ATTACKS[attack].shadows]
    for variant, target in seen.items():
        plans: list[tuple[Knowledge, list[str], str]] = [("none", alone, variant)]
        plans.append(("matched", others, variant))
        if variant != "full" and "full" in seen:
            plans.append(("full", others, "full"))
        for knowledge, some, shadow in plans:
            for attack, scores in score(some, target, seen[shadow], members, cases).items():
                shadows = 0 if knowledge == "none" else len(cases[0].shadows)
                summary, curve = summarise(scores, audited), mean_curve(scores, audited)
                each = by_target(scores, audited)
                row = Row(variant, knowledge, attack, summary, shadows, curve, each)
                yield Scored(row, scores)


def lacking(
    attack: str,
    seen: Collection[Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
) -> list[str]:
    """What an attack needs and is not there, in words."""
    found = []
    for field in ATTACKS[attack].needs:
        signals = [getattr(one, field) for one in seen]
        if any(signal is None for signal in signals):
            found.append(WORDS[field])
        elif field == "population_hinge" and signals[0].shape[-1] < FEWEST:
            found.append(f"a population of {FEWEST}")
    sides = zip(ATTACKS[attack].sides, (members, ~members), ("with", "without"), strict=True)
    for least, side, word in sides:
        if least and any(int(side[shadows].sum(0).min()) < least for _, shadows in cases):
            found.append(f"{least} shadow{'s' if least > 1 else ''} {word} each example")
    return found


def mean_curve(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> list[float]:
    """TPR at each FPR of `FPR_GRID`, averaged over targets; their thresholds differ."""
    curves = [roc(row, inside) for row, inside in zip(scores, members, strict=True)]
    # the last point of each curve that is not right of the grid's, rounding aside
    points = [torch.searchsorted(c.fpr, FPR_GRID + 1e-12, right=True) - 1 for c in curves]
    at = [curve.tpr[point] for curve, point in zip(curves, points, strict=True)]
    mean: list[float] = torch.stack(at).mean(0).tolist()
    return mean


def by_target(
    scores: Float[Tensor, "targets examples"], members: Bool[Tensor, "targets examples"]
) -> dict[Metric, list[float]]:
    """Each metric of `Summary` of each target."""
    curves = [roc(row, inside) for row, inside in zip(scores, members, strict=True)]
    values = torch.stack([curve_metrics(curve) for curve in curves], 1)
    return dict(zip(get_args(Metric), values.tolist(), strict=True))


def strongest(rows: Sequence[Row], variant: str, metric: Metric = "auc") -> Row | None:
    """The attack on a variant that is best by one metric."""

    def value(row: Row) -> float:
        estimate: Estimate = getattr(row.summary, metric)
        return estimate.value

    return max((row for row in rows if row.variant == variant), key=value, default=None)
