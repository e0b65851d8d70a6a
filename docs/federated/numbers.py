"""What an attacker finds on each federation, and the differences of these."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from attacks.cross_choice import cross_choose
from attacks.federated.leaks import FederatedLeak, FederatedRow, Known
from attacks.federated.view import Threat
from attacks.metrics.differences import Outcome
from attacks.metrics.measures import Measured, Metric
from docs.federated.fleets import Fleet, Fleets
from docs.study.numbers import GUESSES, NOBODY, SMALL, Attacker, uncorrected
from docs.study.verdicts import Uncorrected
from reporting.pairing import pair_with_first

MEASURES: tuple[Metric, ...] = ("auc", "tpr_1pct")
KINDS: tuple[Known, ...] = ("none", "peers", "matched", "other")
# kinds are all that an attacker has: attacks without shadows are those of `none` and `peers`
STRONGEST = Attacker(("none", "peers", "matched"))
MATCHED, PEERS, OTHER = (Attacker((kind,)) for kind in ("matched", "peers", "other"))
ATTACKERS = {
    "the strongest attack": STRONGEST,
    "the strongest with matched shadows": MATCHED,
    "the strongest that compares peers": PEERS,
}
TOY = "lda"  # the attack of the toy whose findings the page tests
# by attack, the shadows of full-precision federations and those that are rounded alike
BORROWERS = {
    "the strongest with each": (OTHER, MATCHED),
    "`lda`": (Attacker(("other",), TOY), Attacker(("matched",), TOY)),
    "`lda_standardised`": (
        Attacker(("other",), "lda_standardised"),
        Attacker(("matched",), "lda_standardised"),
    ),
}


class Side(NamedTuple):
    """What is attacked, and by whom; nobody for the test accuracy."""

    update: str
    threat: Threat
    attacker: Attacker


class Asked(NamedTuple):
    """The key of a comparison, first - second."""

    first: Side
    second: Side
    measure: str


def rows_of(leak: FederatedLeak, attacker: Attacker) -> list[FederatedRow]:
    """The attacks that an attacker can make."""
    return [
        row
        for row in leak.rows
        if row.knowledge in attacker.kinds and attacker.attack in (None, row.attack)
    ]


def can_attack(fleets: Fleets, side: Side) -> bool:
    """Whether an attacker has any attack there."""
    return bool(rows_of(fleets.all[side.update].leaks[side.threat], side.attacker))


def outcome(
    fleets: Fleets, side: Side, measure: str, targets: Sequence[int] | None = None
) -> Outcome:
    """One number per federation, by the attack that is strongest on the other half of them.

    Args:
        fleets: all of the page.
        side: what is attacked, and by whom.
        measure: one of `MEASURES`, or `accuracy`.
        targets: positions of the federations; None for all of them.
    """
    fleet = fleets.all[side.update]
    if side.attacker == NOBODY:
        values = fleet.study.outcome("full", NOBODY, measure).measured.values
    else:
        values = _cross(rows_of(fleet.leaks[side.threat], side.attacker), measure)
    if targets is not None:
        values = values[list(targets)]
    measured = Measured(values, values.new_zeros(len(values), 0))
    # nobody attacks the accuracy, which no pair of federations shares
    return Outcome(measured, round_robin=side.attacker != NOBODY and is_round_robin(fleet))


def compare(fleets: Fleets, asked: Asked) -> Uncorrected:
    """Compare two sides on the federations that trained on the same examples."""
    first, second, measure = asked
    here, there = _common(fleets, first.update, second.update)
    return uncorrected(
        outcome(fleets, first, measure, here),
        outcome(fleets, second, measure, there),
        margin(fleets, second, measure),
    )


def margin(fleets: Fleets, side: Side, measure: str) -> float:
    """The size up to which a difference is small: a share of what full-precision updates leak.

    To the same attacker, or to the strongest where it attacks none of these.
    """
    if measure == "accuracy":
        return 0.0
    own = Side("full", side.threat, side.attacker)
    if not can_attack(fleets, own):
        own = own._replace(attacker=STRONGEST)
    found = outcome(fleets, own, measure).measured.values.mean().item()
    return SMALL * max(0.0, found - GUESSES[measure])


def is_round_robin(fleet: Fleet) -> bool:
    """Whether the audited federations are the shadows of one another."""
    return not fleet.study.config["fleet"]["targets"]


def _common(fleets: Fleets, first: str, second: str) -> tuple[Sequence[int], Sequence[int]]:
    """Positions of the federations of either fleet that trained on the same examples."""
    if first == second:
        count = range(fleets.all[first].leaks["client"].federations)
        return count, count
    results = {"second": fleets.all[second].study.results, "first": fleets.all[first].study.results}
    pairing = pair_with_first(results)["first"]
    return pairing.own, pairing.first


def _cross(rows: Sequence[FederatedRow], measure: str) -> Tensor:
    metric = cast("Metric", measure)
    values = torch.tensor([row.by_federation[metric] for row in rows], dtype=torch.float64)
    (first, second), half = cross_choose(values), values.shape[1] // 2
    return torch.cat([values[first, :half], values[second, half:]])
