"""What learning in tasks leaks: of each task, after each stage, to each kind of attacker."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.continual.cell import make_cell
from attacks.continual.comparisons import (
    Attacker,
    StateLeak,
    Transfer,
    compare_tasks,
    find_attackers,
    find_state_leaks,
    find_transfers,
)
from attacks.continual.over_targets import over_targets
from attacks.continual.phi_attacks import attack_phi
from attacks.continual.precisions import PrecisionLeak, attack_precisions, lacking_outputs
from attacks.continual.risk_map import RiskMap, map_risk
from attacks.continual.rows import Found, Sums, TaskRow, attack_cell
from attacks.continual.utility import Utility, sum_up
from attacks.continual.variants import VariantLeak, attack_variants
from attacks.game import Game
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from attacks.shadow_halves import is_round_robin
from attacks.tasks import Stage, Tasks

FEWEST = 2  # members and non-members of a task in each audited model, without which it is left out
UNSOLVED = (
    "normal_equations was left out: it was not recorded after the last task, because the pool has "
    "more candidates than it is solved for. Take a smaller `--data.pool_size` to make it."
)
NO_FISHER = (
    "fisher_equations was left out after some tasks, of which the pool has more candidates than it "
    "is solved for. Take a smaller `--data.pool_size` to make it."
)
PAIRED = "residual_lira_paired"
Attacks = dict[int, Mapping[str, Found]]  # of each task, by the attack's name


class TaskCell(NamedTuple):
    """One task's examples after one stage.

    Attributes:
        task: its number, from 1.
        stage: number of the stage, from 1.
        rows: every attack.
    """

    task: int
    stage: int
    rows: list[TaskRow]

    def strongest(self, metric: Metric) -> TaskRow:
        """The strongest attack by one who holds this snapshot alone."""
        rows = [row for row in self.rows if row.holds == "snapshot" and not row.control]
        return max(rows, key=lambda row: getattr(row.summary, metric).value)

    def named(self, attack: str) -> TaskRow | None:
        """The row of an attack; None if it was not made."""
        return next((row for row in self.rows if row.attack == attack), None)


class ContinualLeak(NamedTuple):
    """What learning in tasks leaks.

    Attributes:
        classes: of each task.
        tasks: numbers of the tasks that are attacked, from 1.
        stages: names of the variants at the ends of stages.
        targets: number of audited models.
        shadows: number of shadows against each.
        false_positives: how many non-members a TPR accuses over all targets, of the task with the
            fewest.
        worlds: number of heads over each audited model's own features; 0 without any.
        world_seconds: that one such head takes; NaN without any.
        cells: of each task and each stage from its own on.
        utility: what the learners can do.
        transfers: what attacks find at the end beyond what they find right after each task; the
            first is the strongest, and empty with a single task.
        by_task: the same of the strongest attack, task by task.
        attackers: what one finds at the end who holds ever more.
        state: what attacks on the learner's state find; empty for learners without any.
        exemplars: share of the members of earlier tasks that are kept for replay at the end; None
            without replay.
        risk_map: whether leverages tell who is exposed; None for learners without them.
        variants: of the variants at the end of training, by attacks on phi.
        left_out: what could not be attacked, and why, one sentence each.
        precisions: of the snapshots by their precision; empty where none are quantized.
    """

    classes: list[list[int]]
    tasks: list[int]
    stages: list[str]
    targets: int
    shadows: int
    false_positives: dict[Metric, int]
    worlds: int
    world_seconds: float
    cells: list[TaskCell]
    utility: Utility
    transfers: list[Transfer]
    by_task: list[Difference]
    attackers: list[Attacker]
    state: list[StateLeak]
    exemplars: Estimate | None
    risk_map: RiskMap | None
    variants: list[VariantLeak]
    left_out: list[str]
    precisions: Sequence[PrecisionLeak] = ()

    def cell(self, task: int, stage: int) -> TaskCell | None:
        """One task after one stage, both from 1; None where the task is not attacked."""
        return next((c for c in self.cells if (c.task, c.stage) == (task, stage)), None)


class _Attacked(NamedTuple):
    """All cells, and what is kept of tasks right after them, at the end, and of the last stage."""

    cells: list[TaskCell]
    first: Attacks
    last: Attacks
    accuracy: Float[Tensor, "targets stages tasks"]
    stage: Stage


def find_continual_leak(game: Game) -> ContinualLeak | None:
    """Attack every task after every stage; None for models that do not learn in tasks."""
    if game.tasks is None:
        return None
    tasks, stages = game.tasks, list(game.by_stage)
    usable, left_out = _choose_tasks(tasks, game.audited)
    if not usable:
        return None
    cells, first, last, accuracy, stage = _attack_cells(game, tasks, usable)
    if stage.leverage and stage.solved is None:
        left_out.append(UNSOLVED)
    if any("fisher_bound" in made and "fisher_equations" not in made for made in first.values()):
        left_out.append(NO_FISHER)
    left_out += [
        f"Snapshots by {name} were not attacked, because whole outputs of {', '.join(variants)} "
        "were not recorded. Delete these files in each model's `signals`, and run train.py again."
        for name, variants in lacking_outputs(game, tasks).items()
    ]
    early, late = list(first.values()), list(last.values())
    grown = [task for task in usable if task < len(stages) - 1]
    pair = [first[task] for task in grown], [last[task] for task in grown]
    robin = is_round_robin(game)
    return ContinualLeak(
        classes=[list(group) for group in tasks.classes],
        tasks=[task + 1 for task in usable],
        stages=stages,
        targets=len(game.cases),
        shadows=len(game.cases[0].shadows),
        false_positives=_count_false_positives(cells),
        worlds=next((len(known.members) for known in stage.worlds.values()), 0),
        world_seconds=_seconds(stage),
        cells=cells,
        utility=sum_up(accuracy, tasks.classes),
        transfers=find_transfers(*pair, robin) if grown else [],
        by_task=compare_tasks(*pair, robin) if grown else [],
        attackers=find_attackers(early, late, robin),
        state=find_state_leaks(early, pair[1]),
        exemplars=_share_kept(game, tasks, stage, grown),
        risk_map=_map_risk(game, tasks, stage, last),
        variants=attack_variants(game, tasks, usable, stage),
        left_out=left_out,
        precisions=attack_precisions(game, tasks, usable),
    )


def _attack_cells(game: Game, tasks: Tasks, usable: Sequence[int]) -> _Attacked:
    """Make every attack on each task from its own stage on, reading one stage at a time."""
    cells, accuracy, sums = [], [], Sums()
    first: Attacks = {}
    last: Attacks = {}
    for place, name in enumerate(game.by_stage):
        stage = tasks.stages[place]
        accuracy.append(stage.accuracy[[case.target for case in game.cases]])
        for task in (task for task in usable if task <= place):
            phi = attack_phi(game, tasks, task, name, game.by_stage[name])
            cell = make_cell(tasks, place, stage, task, game.members, game.cases)
            last[task] = attack_cell(cell, task, sums, phi)
            first.setdefault(task, last[task])
            cells.append(TaskCell(task + 1, place + 1, [f.row for f in last[task].values()]))
    return _Attacked(cells, first, last, torch.stack(accuracy, 1), stage)


def _choose_tasks(
    tasks: Tasks, audited: Bool[Tensor, "targets examples"]
) -> tuple[list[int], list[str]]:
    """Tasks of which each audited model has members and non-members, and why others are not."""
    usable, left_out = [], []
    for task in range(len(tasks.classes)):
        inside = audited[:, tasks.task == task]
        fewest = int(torch.minimum(inside.sum(1), (~inside).sum(1)).min())
        if fewest >= FEWEST:
            usable.append(task)
        else:
            left_out.append(
                f"Task {task + 1} was left out of the attacks on tasks: an audited model has "
                f"{fewest} members or non-members of it, and {FEWEST} are needed. Take fewer "
                "tasks, or a larger pool."
            )
    return usable, left_out


def _count_false_positives(cells: Sequence[TaskCell]) -> dict[Metric, int]:
    known = [row.summary for cell in cells for row in cell.rows]
    return {
        "tpr_1pct": min(summary.false_positives_1pct for summary in known),
        "tpr_01pct": min(summary.false_positives_01pct for summary in known),
    }


def _seconds(stage: Stage) -> float:
    known = [worlds.seconds for worlds in stage.worlds.values()]
    return sum(known) / len(known) if known else torch.nan


def _share_kept(game: Game, tasks: Tasks, stage: Stage, earlier: Sequence[int]) -> Estimate | None:
    """Share of the members of earlier tasks that a learner keeps at the end."""
    if stage.exemplars is None or not earlier:
        return None
    old = torch.isin(tasks.task, torch.tensor(earlier))
    kept = stage.exemplars[[case.target for case in game.cases]][:, old]
    return over_targets(kept.sum(1).double() / game.audited[:, old].sum(1))


def _map_risk(
    game: Game, tasks: Tasks, stage: Stage, last: Mapping[int, Mapping[str, Found]]
) -> RiskMap | None:
    """Compare leverages at the end with what paired LiRA finds then, over all tasks."""
    if not stage.leverage or any(PAIRED not in found for found in last.values()):
        return None
    order = torch.cat([(tasks.task == task).nonzero().flatten() for task in last])
    scores = torch.cat([found[PAIRED].scores for found in last.values()], 1)
    targets = [case.target for case in game.cases]
    leverage = stage.leverage["float64"][targets][:, order]
    return map_risk(PAIRED, scores, leverage, game.audited[:, order])
