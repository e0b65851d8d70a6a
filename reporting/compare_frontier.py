"""The frontier over experiments: what the same accuracy costs beside stopping the first early."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.equal_accuracy import find_equal, networks_at, shown_by_all
from attacks.frontier import Beside, Frontier, set_beside
from attacks.game import FULL
from attacks.metrics.between import paired
from attacks.metrics.differences import Difference, Outcome, holm
from reporting.compare import Entry
from reporting.frontier import tabulate_frontiers
from reporting.pairing import Pairing
from reporting.tables import Table
from reporting.worth import describe
from storage.names import in_order, is_snapshot


def find_frontier(entries: Sequence[Entry], pairings: Mapping[str, Pairing]) -> Frontier | None:
    """Compare the variants of paired experiments with early stopping of the first, by its rule.

    p is corrected for all variants, experiments and metrics together. None without snapshots of the
    first experiment, or without its end of training.

    Returns:
        The curve, and every variant of the paired experiments by its `full_name`.
    """
    first = entries[0].experiment
    own = {entry.variant: entry for entry in entries if entry.experiment == first}
    snapshots = in_order(own)
    if not snapshots or FULL not in own:
        return None
    curve = [own[variant] for variant in (*snapshots, FULL)]
    beside = {
        full_name(entry): _set_beside(entry, curve, pairings[entry.experiment])
        for entry in entries
        if entry.experiment != first
        and pairings[entry.experiment].own
        and not is_snapshot(entry.variant)
    }
    found = [place.differences for place in beside.values()]
    corrected = iter(holm([d.p for by_end in found for d in by_end.values()]))
    for by_end in found:
        for end, difference in by_end.items():
            by_end[end] = difference._replace(p_holm=next(corrected))
    return Frontier([*snapshots, FULL], beside)


def _set_beside(entry: Entry, curve: Sequence[Entry], pairing: Pairing) -> Beside:
    """One variant beside the curve, before correction for the number of comparisons."""
    own = _accuracy(entry, pairing.own)
    path = torch.stack([_accuracy(point, pairing.first) for point in curve])
    equal, differences = find_equal(path, own), {}
    if not equal.outside:
        for end in entry.risk:
            points = [point.outcome(end, pairing.first) for point in curve]
            networks = networks_at(equal, points, path, own)
            differences[end] = _compare(networks, entry.outcome(end, pairing.own))
    return set_beside([point.variant for point in curve], equal, differences)


def _accuracy(entry: Entry, targets: Sequence[int]) -> Float[Tensor, " targets"]:
    return torch.tensor(entry.facts.accuracy_by_target, dtype=torch.float64)[list(targets)]


def _compare(networks: Sequence[Outcome], own: Outcome) -> Difference:
    """What networks of the first experiment leak beyond a variant, wherever on the curve they are.

    Nothing is shown where the test knows nothing, because all targets differ by the same amount.
    """
    found = []
    for there in networks:
        estimate, p = paired(there, own)
        if isnan(p):
            estimate, p = estimate._replace(low=-1.0, high=1.0), 1.0
        found.append(Difference("", "", estimate, p, p))
    return shown_by_all(found)


def why_no_curve(entries: Sequence[Entry]) -> str:
    """Why the first experiment has no curve of early stopping, and the way out."""
    first = entries[0].experiment
    variants: dict[str, list[str]] = {}
    for entry in entries:
        variants.setdefault(entry.experiment, []).append(entry.variant)
    nothing = f"Nothing is compared with networks of {first} that were stopped early, because it"
    if in_order(variants[first]):
        without = f"was audited without `{FULL}`, the end of its training"
        return f"{nothing} {without}. Audit it with that, too."
    curves = [name for name, own in variants.items() if in_order(own) and FULL in own]
    if curves:
        return f"{nothing} has no snapshots. Name one first that has them: {', '.join(curves)}."
    return (
        f"{nothing} has no snapshots. Train it into a new folder with `--snapshots`, for example "
        "`--snapshots 5 10 15`, and audit it."
    )


def full_name(entry: Entry) -> str:
    """A variant with its experiment: `decay's full`."""
    return f"{entry.experiment}'s {entry.variant}"


def tabulate(frontier: Frontier, first: str) -> Table:
    """The table of all compared variants."""
    name = f"early stopping of {first}"
    columns, rows, note = tabulate_frontiers({name: frontier})
    title = f"What the same accuracy costs otherwise: against {name}"
    columns, rows = _without_curve(columns), [_without_curve(row) for row in rows]
    return Table("frontier_over_experiments", title, columns, rows, note)


def _without_curve(cells: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave out the second column, which names the curve: the title does."""
    return cells[0], *cells[2:]


def sentences(frontier: Frontier, names: Sequence[str]) -> list[str]:
    """A sentence on the end of training in each experiment that is paired with the first."""
    first, *others = names
    if not frontier.beside:
        return [
            f"Nothing is compared with networks of {first} that were stopped early, because no "
            "experiment is paired with it."
        ]
    equal = f"a network of {first} of equal accuracy that was stopped early"
    ends = [name for other in others if (name := f"{other}'s {FULL}") in frontier.beside]
    return [describe(frontier, name, equal) for name in ends]
