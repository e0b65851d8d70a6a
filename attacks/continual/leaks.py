"""What learning in tasks leaks: of each task, after each stage, to each kind of attacker."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.continual.cell import make_cell
from attacks.continual.comparisons import (
    Attacker,
    StateLeak,
    Transfer,
    choose,
    compare_tasks,
    find_attackers,
    find_state_leaks,
    find_transfers,
    mean_over_tasks,
)
from attacks.continual.over_targets import over_targets
from attacks.continual.phi_attacks import attack_phi
from attacks.continual.risk_map import RiskMap, map_risk
from attacks.continual.rows import Found, Sums, TaskRow, attack_cell, attack_scores
from attacks.continual.utility import Utility, sum_up
from attacks.game import FULL, Game, ModelSignals
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured, Metric
from attacks.shadow_halves import is_round_robin
from attacks.tasks import Stage, Tasks

FEWEST = 2  # members and non-members of a task in each audited model, without which it is left out
PAIRED = "residual_lira_paired"


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


class VariantLeak(NamedTuple):
    """What attacks find of each task in one variant at the end of training.

    Attributes:
        variant: its name.
        auc: mean over tasks, each by the attack that is strongest on other targets.
        tpr_1pct: the same at 1% FPR.
        by_task: AUC of each task.
        whole: whether they see whole output vectors, and not only phi.
    """

    variant: str
    auc: Estimate
    tpr_1pct: Estimate
    by_task: list[Estimate]
    whole: bool


class ContinualLeak(NamedTuple):
    """What learning in tasks leaks.

    Attributes:
        classes: of each task.
        tasks: numbers of the tasks that are attacked, from 1.
        stages: names of the variants at the ends of stages.
        targets: number of audited models.
        shadows: number of shadows against each.
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
        variants: of the variants at the end of training.
        left_out: what could not be attacked, and why, one sentence each.
    """

    classes: list[list[int]]
    tasks: list[int]
    stages: list[str]
    targets: int
    shadows: int
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

    def cell(self, task: int, stage: int) -> TaskCell | None:
        """One task after one stage, both from 1; None where the task is not attacked."""
        return next((c for c in self.cells if (c.task, c.stage) == (task, stage)), None)


def find_continual_leak(game: Game) -> ContinualLeak | None:
    """Attack every task after every stage; None for models that do not learn in tasks."""
    if game.tasks is None:
        return None
    tasks, stages = game.tasks, list(game.by_stage)
    usable, left_out = _choose_tasks(tasks, game.audited)
    if not usable:
        return None
    cells, first, last, accuracy = [], {}, {}, []
    sums, final = Sums(), len(stages) - 1
    for place, name in enumerate(stages):
        stage = tasks.stages[place]
        accuracy.append(stage.accuracy[[case.target for case in game.cases]])
        for task in (task for task in usable if task <= place):
            phi = attack_phi(game, tasks, task, name, game.by_stage[name])
            cell = make_cell(tasks, place, stage, task, game.members, game.cases)
            found = attack_cell(cell, task, sums, phi)
            cells.append(TaskCell(task + 1, place + 1, [f.row for f in found.values()]))
            if place == task:
                first[task] = found
            if place == final:
                last[task] = found
    early, late = list(first.values()), list(last.values())
    grown = [task for task in usable if task < final]
    pair = [first[task] for task in grown], [last[task] for task in grown]
    robin = is_round_robin(game)
    return ContinualLeak(
        classes=[list(group) for group in tasks.classes],
        tasks=[task + 1 for task in usable],
        stages=stages,
        targets=len(game.cases),
        shadows=len(game.cases[0].shadows),
        worlds=next((len(known.members) for known in stage.worlds.values()), 0),
        world_seconds=_seconds(stage),
        cells=cells,
        utility=sum_up(torch.stack(accuracy, 1), tasks.classes),
        transfers=find_transfers(*pair, robin) if grown else [],
        by_task=compare_tasks(*pair, robin) if grown else [],
        attackers=find_attackers(early, late, robin),
        state=find_state_leaks(early, pair[1]),
        exemplars=_share_kept(game, tasks, stage, grown),
        risk_map=_map_risk(game, tasks, stage, last),
        variants=_attack_variants(game, tasks, usable, stage),
        left_out=left_out,
    )


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


def _attack_variants(
    game: Game, tasks: Tasks, usable: Sequence[int], end: Stage
) -> list[VariantLeak]:
    """Attack every variant at the end of training, task by task; empty for `full` alone.

    All by the same attacks with matched shadows: on phi and, where they are known of every variant,
    on whole output vectors.
    """
    whole = game.signals.keys() - {FULL} <= tasks.outputs.keys()
    leaks = []
    for variant, signals in game.signals.items() if len(game.signals) > 1 else ():
        by_metric: dict[Metric, list[Estimate]] = {"auc": [], "tpr_1pct": []}
        parts: dict[Metric, list[Measured]] = {"auc": [], "tpr_1pct": []}
        seen = None
        if whole:
            outputs = end.outputs if variant == FULL else tasks.outputs[variant]
            seen = Stage(outputs, end.accuracy)
        for task in usable:
            found = _attack_variant(game, tasks, task, variant, signals, seen)
            for metric in parts:
                measured, _ = choose(found, metric)
                parts[metric].append(measured)
                by_metric[metric].append(two_way(measured))
        means = {metric: two_way(mean_over_tasks(known)) for metric, known in parts.items()}
        tpr = means["tpr_1pct"]
        leaks.append(VariantLeak(variant, means["auc"], tpr, by_metric["auc"], whole))
    return leaks


def _attack_variant(
    game: Game,
    tasks: Tasks,
    task: int,
    variant: str,
    signals: ModelSignals,
    seen: Stage | None,
) -> dict[str, Found]:
    """Attack one task in one variant at the end, by phi and by its outputs where they are known."""
    phi = attack_phi(game, tasks, task, variant, signals)
    if seen is None:
        return attack_scores(phi, game.audited[:, tasks.task == task])
    cell = make_cell(tasks, len(tasks.classes) - 1, seen, task, game.members, game.cases)
    found = attack_cell(cell, task, Sums(), phi)
    return {name: each for name, each in found.items() if not each.row.control}
