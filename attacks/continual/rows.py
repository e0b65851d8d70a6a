"""What every attack finds in every cell, where a cell is one task's examples after one stage."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS as PHI
from attacks.continual import ATTACKS, Compares, Holds
from attacks.continual.cell import Cell
from attacks.metrics.intervals import Summary, summarise
from attacks.metrics.measures import Measured, Metric, measure

Scores = Float[Tensor, "targets examples"]
JOINT = "_all_snapshots"  # after the attack whose log-likelihood ratios are summed over stages
STATE_JOINT = "all_snapshots_and_state"
# of the learner's state, in its sum with what snapshots tell
_HEADS, _STATE = "residual_lira_paired", "leverage_lira_float64"


class TaskRow(NamedTuple):
    """What one attack finds among one task's examples after one stage.

    Attributes:
        attack: its name.
        holds: what the attacker holds.
        compares: what it compares with.
        control: whether it only shows what a weaker attacker would miss.
        summary: mean over targets.
        by_target: each metric of each target.
    """

    attack: str
    holds: Holds
    compares: Compares
    control: bool
    summary: Summary
    by_target: dict[Metric, list[float]]


class Found(NamedTuple):
    """A row, what its metrics are made of, and its scores."""

    row: TaskRow
    measured: Mapping[Metric, Measured]
    scores: Scores


class Sums:
    """Sums of log-likelihood ratios over the stages so far, for each task."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], Scores] = {}
        self._counts: dict[tuple[int, str], int] = {}

    def add(self, task: int, scores: Mapping[str, Scores]) -> dict[str, tuple[Scores, Holds]]:
        """Add one stage; what the sums say that hold two snapshots or more, or the state too."""
        found: dict[str, tuple[Scores, Holds]] = {}
        for name, ratios in scores.items():
            key = task, name
            self._sums[key] = self._sums.get(key, 0) + ratios
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._counts[key] > 1:
                found[f"{name}{JOINT}"] = self._sums[key], ATTACKS[name].holds
        both = [self._sums.get((task, name)) for name in (_HEADS, _STATE)]
        if both[0] is not None and both[1] is not None:
            found[STATE_JOINT] = both[0] + both[1], "state"
        return found


def attack_cell(cell: Cell, task: int, sums: Sums, phi: Mapping[str, Scores]) -> dict[str, Found]:
    """Make every attack on one cell that can be made, by name.

    Args:
        cell: one task's examples after one stage.
        task: number of the task.
        sums: of the stages before; this one is added.
        phi: scores of the attacks on phi.
    """
    members = cell.members[cell.targets]
    enough = _enough_shadows(cell)
    found, ratios = attack_scores(phi, members), {}
    for name, attack in ATTACKS.items():
        if attack.suits(cell) and (attack.compares != "shadows" or enough):
            scores = attack.run(cell)
            found[name] = _enter(
                name, attack.holds, attack.compares, attack.control, scores, members
            )
            if attack.ratio:
                ratios[name] = scores
    for name, (scores, holds) in sums.add(task, ratios).items():
        alone = ATTACKS.get(name.removesuffix(JOINT))
        compares: Compares = alone.compares if alone else "shadows"
        held: Holds = "snapshots" if holds == "snapshot" else holds
        found[name] = _enter(name, held, compares, False, scores, members)
    return found


def attack_scores(
    phi: Mapping[str, Scores], members: Bool[Tensor, "targets examples"]
) -> dict[str, Found]:
    """Sum up the scores of attacks on phi."""
    found = {}
    for name, scores in phi.items():
        compares: Compares = "shadows" if PHI[name].shadows else "nothing"
        found[name] = _enter(name, "snapshot", compares, False, scores, members)
    return found


def _enough_shadows(cell: Cell) -> bool:
    """Whether each example has two shadows on either side in every case."""
    for _, shadows in cell.cases:
        inside = cell.members[shadows].sum(0)
        if inside.min() < 2 or (len(shadows) - inside).min() < 2:
            return False
    return True


def _enter(
    name: str,
    holds: Holds,
    compares: Compares,
    control: bool,
    scores: Scores,
    members: Bool[Tensor, "targets examples"],
) -> Found:
    measured = measure(scores, members)
    values = {metric: known.values.tolist() for metric, known in measured.items()}
    summary = summarise(scores, members, measured=measured)
    return Found(TaskRow(name, holds, compares, control, summary, values), measured, scores)
