"""What an attacker finds of earlier tasks of each target, and the differences of these."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.continual.leaks import TaskCell
from attacks.cross_choice import cross_choose
from attacks.game import FULL
from attacks.metrics.differences import Outcome
from attacks.metrics.measures import Measured, Metric
from docs.continual.fleets import Fleet, Fleets
from docs.continual.measures import ACCURACY
from docs.study.numbers import GUESSES, NOBODY, SMALL, uncorrected
from docs.study.numbers import STRONGEST as ANY_SHADOWS
from docs.study.verdicts import Uncorrected
from reporting.pairing import pair_with_first

Moment = Literal["after", "end", "change", "all"]
STRONGEST, LOSS = "the strongest attack", "loss"
LIRA, OWN_COLUMNS = "residual_lira", "residual_lira_own_columns"
WORLDS = "residual_lira_worlds"
POINT = 0.01  # a difference of accuracy within it is called small


class Side(NamedTuple):
    """What is attacked when, and by what.

    Attributes:
        fleet: its name.
        moment: `after`: earlier tasks, each right after it was learned; `end`: the same tasks at
            the end of training; `change`: the latter less the former; `all`: every task at the end.
            Earlier tasks are all but the last.
        attack: name of an attack on one snapshot, or `STRONGEST` of them; `ACCURACY` for nobody.
    """

    fleet: str
    moment: Moment
    attack: str


class Head(NamedTuple):
    """A variant at the end of training, attacked by the strongest attack on phi."""

    fleet: str
    variant: str


class Asked(NamedTuple):
    """The key of a comparison, first - second."""

    first: Side | Head
    second: Side | Head
    measure: str


def can_attack(fleets: Fleets, side: Side) -> bool:
    """Whether an attack was made wherever it would have to be."""
    leak = fleets[side.fleet].leak
    if side.attack in (STRONGEST, ACCURACY):
        return len(leak.stages) > 1
    return all(cell.named(side.attack) is not None for cell in _cells(fleets[side.fleet], side))


def values(fleet: Fleet, side: Side, measure: str) -> Float[Tensor, " targets"]:
    """One number per target: the mean over tasks of what is found, or of the accuracy."""
    if side.moment == "change":
        end, after = (side._replace(moment=moment) for moment in ("end", "after"))
        return values(fleet, end, measure) - values(fleet, after, measure)
    if measure == ACCURACY:
        return _accuracy(fleet, side.moment)
    cells = _cells(fleet, side)
    return torch.stack([_found(cell, side.attack, measure) for cell in cells]).mean(0)


def outcome(
    fleets: Fleets, side: Side | Head, measure: str, targets: Sequence[int] | None = None
) -> Outcome:
    """One number per target, for targets at some positions or for all of them."""
    fleet = fleets[side.fleet]
    if isinstance(side, Head):
        attacker = NOBODY if measure == ACCURACY else ANY_SHADOWS
        return fleet.study.outcome(side.variant, attacker, measure, targets)
    found = values(fleet, side, measure)
    if targets is not None:
        found = found[list(targets)]
    measured = Measured(found, found.new_zeros(len(found), 0))
    # nobody attacks the accuracy, which no pair of models shares
    return Outcome(measured, round_robin=measure != ACCURACY and is_round_robin(fleet))


def compare(fleets: Fleets, asked: Asked) -> Uncorrected:
    """Compare two sides on the targets that trained on the same examples."""
    first, second, measure = asked
    here, there = _common(fleets, first.fleet, second.fleet)
    return uncorrected(
        outcome(fleets, first, measure, here),
        outcome(fleets, second, measure, there),
        margin(fleets, second, measure),
        together=first.fleet == second.fleet,
    )


def margin(fleets: Fleets, side: Side | Head, measure: str) -> float:
    """The size up to which a difference is small: a point of accuracy, or a share of the leakage.

    It is a share of what the strongest attack finds of earlier tasks at the end of training; for
    variants, of what it finds by phi at full precision.
    """
    if measure == ACCURACY:
        return POINT
    fleet = fleets[side.fleet]
    if isinstance(side, Head):
        return fleet.study.margin(ANY_SHADOWS, measure)
    level = values(fleet, Side(side.fleet, "end", STRONGEST), measure).mean().item()
    return SMALL * max(0.0, level - GUESSES[measure])


def heads_of(fleet: Fleet) -> list[str]:
    """The quantized variants of a fleet."""
    return [variant for variant in fleet.study.variants if variant != FULL]


def is_round_robin(fleet: Fleet) -> bool:
    """Whether the audited models are the shadows of one another."""
    return not fleet.study.config["fleet"]["targets"]


def _cells(fleet: Fleet, side: Side) -> list[TaskCell]:
    """Tasks that a side looks at, when it does."""
    last = len(fleet.leak.stages)
    found = []
    for task in fleet.leak.tasks:
        cell = fleet.leak.cell(task, task if side.moment == "after" else last)
        if cell is not None and (task < last or side.moment == "all"):
            found.append(cell)
    return found


def _found(cell: TaskCell, attack: str, measure: str) -> Float[Tensor, " targets"]:
    metric = cast("Metric", measure)
    if attack != STRONGEST:
        rows = [row for row in cell.rows if row.attack == attack]
    else:
        rows = [row for row in cell.rows if row.holds == "snapshot" and not row.control]
    found = torch.tensor([row.by_target[metric] for row in rows], dtype=torch.float64)
    (first, second), half = cross_choose(found), found.shape[1] // 2
    return torch.cat([found[first, :half], found[second, half:]])


def _accuracy(fleet: Fleet, moment: Moment) -> Float[Tensor, " targets"]:
    if moment == "all":
        facts = fleet.study.results.variants[FULL]
        return torch.tensor(facts.accuracy_by_target, dtype=torch.float64)
    earlier = range(fleet.accuracy.shape[1] - 1)
    stages = list(earlier) if moment == "after" else [-1] * len(earlier)
    return fleet.accuracy[:, stages, list(earlier)].mean(1)


def _common(fleets: Fleets, first: str, second: str) -> tuple[Sequence[int], Sequence[int]]:
    """Positions of the targets of either fleet that trained on the same examples."""
    if first == second:
        count = range(fleets[first].leak.targets)
        return count, count
    results = {"second": fleets[second].study.results, "first": fleets[first].study.results}
    pairing = pair_with_first(results)["first"]
    return pairing.own, pairing.first
