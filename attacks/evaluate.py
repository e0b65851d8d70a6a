"""Every attack on every variant with both kinds of knowledge: signals in, rows of a table out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS, SHADOW_FREE
from attacks.intervals import Estimate, Summary, summarise
from attacks.metrics import roc

Knowledge = Literal["matched", "full", "none"]
Metric = Literal["auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"]
FPR_GRID = torch.logspace(-4, 0, 161, dtype=torch.float64)
_CHUNK = 1 << 22  # signals of targets scored at once; float64 and its temporaries take 0.2 GB


class Case(NamedTuple):
    """One audited model and the shadows that may be used against it, as rows of the membership."""

    target: int
    shadows: list[int]


class Row(NamedTuple):
    """What one attack achieves against one variant; `curve` is the mean TPR at `FPR_GRID`."""

    variant: str
    knowledge: Knowledge
    attack: str
    summary: Summary
    shadows: int
    curve: list[float]


def make_cases(shadows: int, targets: int, failed: Iterable[int] = ()) -> list[Case]:
    """Say which shadows attack which model.

    A failed shadow takes its partner with it: without the pair, each example is still in exactly
    half of the shadows. With no targets every shadow is audited by all others but its partner,
    whose presence would give the answer away by counting.

    Args:
        shadows: number of shadows, an even number; partners are 2k and 2k + 1.
        targets: number of targets, which follow the shadows.
        failed: positions of models to leave out.
    """
    pairs_out, failed = {position // 2 for position in failed if position < shadows}, set(failed)
    usable = [position for position in range(shadows) if position // 2 not in pairs_out]
    if targets:
        audited = [p for p in range(shadows, shadows + targets) if p not in failed]
        return [Case(target, usable) for target in audited]
    return [Case(t, [p for p in usable if p // 2 != t // 2]) for t in usable]


def score(
    attack: str,
    target_phi: Float[Tensor, "models queries examples"],
    shadow_phi: Float[Tensor, "models queries examples"],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
) -> Float[Tensor, "targets examples"]:
    """Membership scores of every audited model.

    Args:
        attack: a name in `ATTACKS`.
        target_phi: signals of all models in the variant that is attacked, in nats.
        shadow_phi: signals of all models in the variant that the attacker's shadows are.
        members: which model trained on which example.
        cases: who is audited, and by whom.
    """
    run = ATTACKS[attack]
    sharing: dict[tuple[int, ...], list[int]] = {}  # positions of cases, by their shadows
    for position, case in enumerate(cases):
        sharing.setdefault(tuple(case.shadows), []).append(position)
    scores = target_phi.new_empty((len(cases), members.shape[1]), dtype=torch.float64)
    for shadows, positions in sharing.items():
        rows = list(shadows)
        for some in torch.split(torch.tensor(positions), max(1, _CHUNK // target_phi[0].numel())):
            targets = [cases[position].target for position in some.tolist()]
            scores[some] = run(target_phi[targets], shadow_phi[rows], members[rows])
    return scores


def evaluate(
    phi: Mapping[str, Float[Tensor, "models queries examples"]],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    attacks: Sequence[str],
) -> Iterator[Row]:
    """Attack every variant with shadows quantized like it, and with full-precision ones.

    Args:
        phi: signals of all models, by variant; `full` among them.
        members: which model trained on which example.
        cases: who is audited, and by whom.
        attacks: names in `ATTACKS`.

    Yields:
        A row a variant, knowledge and attack. An attack that uses no shadows has knowledge `none`;
        against `full` itself both kinds are the same, and called `matched`.
    """
    audited = members[[case.target for case in cases]]
    for variant in phi:
        for attack in attacks:
            knowledges: tuple[Knowledge, ...] = ("matched", "full")
            if attack in SHADOW_FREE:
                knowledges = ("none",)
            elif variant == "full":
                knowledges = ("matched",)
            for knowledge in knowledges:
                shadow_phi = phi["full" if knowledge == "full" else variant]
                scores = score(attack, phi[variant], shadow_phi, members, cases)
                shadows = 0 if attack in SHADOW_FREE else len(cases[0].shadows)
                curve = mean_curve(scores, audited)
                summary = summarise(scores, audited)
                yield Row(variant, knowledge, attack, summary, shadows, curve)


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


def strongest(rows: Sequence[Row], variant: str, metric: Metric = "auc") -> Row | None:
    """The attack on a variant that is best by one metric."""

    def value(row: Row) -> float:
        estimate: Estimate = getattr(row.summary, metric)
        return estimate.value

    return max((row for row in rows if row.variant == variant), key=value, default=None)
