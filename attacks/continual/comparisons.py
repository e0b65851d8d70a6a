"""How leakage changes as tasks come, and what each kind of attacker gains: on the same examples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from attacks.continual.rows import Found, TaskRow
from attacks.cross_choice import cross_choose
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured, Metric

STRONGEST, LOSS = "strongest", "loss"
ENDS: tuple[Metric, Metric] = "auc", "tpr_1pct"
LEVELS = ("snapshot",), ("snapshot", "snapshots"), ("snapshot", "snapshots", "state")
Cells = Sequence[Mapping[str, Found]]  # of each task, by the attack's name


class Transfer(NamedTuple):
    """What an attack finds at the end beyond what it finds right after each task, mean over tasks.

    Attributes:
        attack: its name, or `STRONGEST`.
        control: whether it only shows what a weaker attacker would miss.
        by_metric: the difference of the AUC, and of the TPR at 1% FPR; corrected for both metrics
            of the strongest and the loss attack together, and for those of all others.
    """

    attack: str
    control: bool
    by_metric: dict[Metric, Difference]


class Attacker(NamedTuple):
    """What one who holds certain things finds at the end, mean over tasks.

    Attributes:
        holds: the most that it holds: a `snapshot`, all `snapshots`, or these and the `state`.
        attacks: which attacks it makes by AUC, on either half of the targets and any task.
        auc: of the strongest attack on each task, chosen on other targets.
        tpr_1pct: the same at 1% FPR.
        tpr_01pct: the same at 0.1% FPR.
        gain: AUC beyond that of the attacker before; None for the first.
    """

    holds: str
    attacks: list[str]
    auc: Estimate
    tpr_1pct: Estimate
    tpr_01pct: Estimate
    gain: Difference | None


class StateLeak(NamedTuple):
    """What one finds who holds a learner's state, or all candidates; mean over tasks.

    Attributes:
        attack: its name.
        auc: right after each task.
        tpr_1pct: the same at 1% FPR.
        auc_at_end: of all tasks but the last, after the last; None for attacks that look at the
            task's own stage, and with a single task.
        tpr_1pct_at_end: the same at 1% FPR.
    """

    attack: str
    auc: Estimate | None
    tpr_1pct: Estimate | None
    auc_at_end: Estimate | None
    tpr_1pct_at_end: Estimate | None


def find_transfers(first: Cells, last: Cells, round_robin: bool) -> list[Transfer]:
    """What each attack on a single snapshot finds at the end beyond the start, over tasks.

    Args:
        first: of each task but the last, right after it.
        last: the same at the end of training.
        round_robin: whether the targets are the shadows.
    """
    names = [name for name in _shared([*first, *last]) if _is_alone(last[0][name].row)]
    asked = [STRONGEST, *(name for name in names if name == LOSS)]
    transfers = []
    for family in (asked, [name for name in names if name != LOSS]):
        outcomes, pairs = {}, []
        for name in family:
            for metric in ENDS:
                ends = f"{name} at the end by {metric}", f"{name} right after by {metric}"
                for end, cells in zip(ends, (last, first), strict=True):
                    parts = [_measure(cell, name, metric) for cell in cells]
                    outcomes[end] = Outcome(mean_over_tasks(parts), round_robin=round_robin)
                pairs.append(ends)
        found = iter(paired_differences(outcomes, pairs))
        for name in family:
            control = name != STRONGEST and last[0][name].row.control
            transfers.append(Transfer(name, control, {metric: next(found) for metric in ENDS}))
    return transfers


def compare_tasks(first: Cells, last: Cells, round_robin: bool) -> list[Difference]:
    """The change of the strongest attack's AUC on each task by itself, corrected for their number.

    Tasks and arguments are those of `find_transfers`.
    """
    outcomes, pairs = {}, []
    for place, cells in enumerate(zip(last, first, strict=True)):
        ends = f"task {place + 1} at the end", f"task {place + 1} right after it"
        for end, cell in zip(ends, cells, strict=True):
            measured = _measure(cell, STRONGEST, "auc")
            outcomes[end] = Outcome(measured, round_robin=round_robin)
        pairs.append(ends)
    return paired_differences(outcomes, pairs)


def find_attackers(first: Cells, last: Cells, round_robin: bool) -> list[Attacker]:
    """What attackers find at the end of training who hold ever more.

    Args:
        first: of every task, right after it.
        last: the same at the end of training.
        round_robin: whether the targets are the shadows.
    """
    found: list[tuple[str, set[str], dict[Metric, Measured]]] = []
    for holds in LEVELS:
        if all(f.row.holds != holds[-1] for cell in (*first, *last) for f in cell.values()):
            continue  # holding more adds no attack
        held = [open_to(early, late, holds) for early, late in zip(first, last, strict=True)]
        metrics: tuple[Metric, ...] = (*ENDS, "tpr_01pct")
        chosen = {metric: [choose(cell, metric) for cell in held] for metric in metrics}
        names = {name for _, pair in chosen["auc"] for name in pair}
        values = {m: mean_over_tasks([part for part, _ in chosen[m]]) for m in metrics}
        found.append((holds[-1], names, values))
    outcomes = {
        holds: Outcome(values["auc"], round_robin=round_robin) for holds, _, values in found
    }
    order = list(outcomes)
    gains = paired_differences(outcomes, list(zip(order[1:], order, strict=False)))
    return [
        Attacker(
            holds,
            sorted(names),
            two_way(values["auc"]),
            two_way(values["tpr_1pct"]),
            two_way(values["tpr_01pct"]),
            gain,
        )
        for (holds, names, values), gain in zip(found, [None, *gains], strict=True)
    ]


def find_state_leaks(first: Cells, last: Cells) -> list[StateLeak]:
    """What each attack on the learner's state finds right after tasks, and at the end.

    Args:
        first: of every task, right after it.
        last: of every task but the last, at the end of training.
    """
    rows = {name: f.row for cell in (*first, *last) for name, f in cell.items()}
    leaks = []
    for name in (name for name, row in rows.items() if row.holds in ("state", "candidates")):
        values = []
        for cells in (first, last):
            known = [cell[name] for cell in cells if name in cell]
            for metric in ENDS:
                parts = [found.measured[metric] for found in known]
                values.append(two_way(mean_over_tasks(parts)) if parts else None)
        leaks.append(StateLeak(name, *values))
    return leaks


def choose(cell: Mapping[str, Found], metric: Metric) -> tuple[Measured, tuple[str, str]]:
    """The strongest attack on each half of the targets, chosen on the other half; its names."""
    names = list(cell)
    values = torch.stack([cell[name].measured[metric].values for name in names])
    first, second = (names[place] for place in cross_choose(values))
    half = values.shape[1] // 2
    pairs = zip(cell[first].measured[metric], cell[second].measured[metric], strict=True)
    return Measured(*(torch.cat([a[:half], b[half:]]) for a, b in pairs)), (first, second)


def mean_over_tasks(parts: Sequence[Measured]) -> Measured:
    """The mean of one metric over tasks, which have no example in common."""
    values = torch.stack([part.values for part in parts]).mean(0)
    return Measured(values, torch.cat([part.influence for part in parts], 1) / len(parts))


def _measure(cell: Mapping[str, Found], name: str, metric: Metric) -> Measured:
    if name != STRONGEST:
        return cell[name].measured[metric]
    return choose({n: f for n, f in cell.items() if _is_risk(f.row)}, metric)[0]


def _is_alone(row: TaskRow) -> bool:
    return row.holds == "snapshot"


def _is_risk(row: TaskRow) -> bool:
    return row.holds == "snapshot" and not row.control


def open_to(
    early: Mapping[str, Found], late: Mapping[str, Found], holds: Sequence[str]
) -> dict[str, Found]:
    """The attacks on one task of one who holds certain things, right after it and at the end."""
    attacks = _held(late, holds)
    if len(holds) > 1 and early is not late:
        attacks |= {f"{n} right after": f for n, f in _held(early, holds).items()}
    return attacks


def _held(cell: Mapping[str, Found], holds: Sequence[str]) -> dict[str, Found]:
    """The attacks of one who holds certain things, without controls."""
    return {n: f for n, f in cell.items() if f.row.holds in holds and not f.row.control}


def _shared(cells: Cells) -> list[str]:
    """Attacks that were made in all cells."""
    return [name for name in cells[0] if all(name in cell for cell in cells)]
