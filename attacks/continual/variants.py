"""What variants at the end of training leak, task by task."""

from collections.abc import Sequence
from typing import NamedTuple

from attacks.continual.cell import make_cell
from attacks.continual.comparisons import choose, mean_over_tasks
from attacks.continual.phi_attacks import attack_phi
from attacks.continual.rows import Found, Sums, attack_cell, attack_scores
from attacks.game import FULL, Game, ModelSignals
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured, Metric
from attacks.tasks import Stage, Tasks


class VariantLeak(NamedTuple):
    """What attacks find of each task in one variant at the end of training.

    Attributes:
        variant: its name.
        auc: mean over tasks, each by the attack that is strongest on other targets.
        tpr_1pct: the same at 1% FPR.
        by_task: AUC of each task.
        whole: whether the attacks see whole output vectors, and not only phi.
    """

    variant: str
    auc: Estimate
    tpr_1pct: Estimate
    by_task: list[Estimate]
    whole: bool


def attack_variants(
    game: Game, tasks: Tasks, usable: Sequence[int], end: Stage
) -> list[VariantLeak]:
    """Attack every variant at the end of training, task by task; empty for `full` alone.

    All by the same attacks with matched shadows: on phi and, where they are known of every variant,
    on whole output vectors.

    Args:
        game: whose models learn in tasks.
        tasks: these tasks.
        usable: numbers of the tasks that are attacked, from 0.
        end: the last stage.
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
            place = len(tasks.classes) - 1
            found = attack_task(game, tasks, task, place, variant, signals, seen, Sums())
            for metric in parts:
                measured, _ = choose(found, metric)
                parts[metric].append(measured)
                by_metric[metric].append(two_way(measured))
        means = {metric: two_way(mean_over_tasks(known)) for metric, known in parts.items()}
        tpr = means["tpr_1pct"]
        leaks.append(VariantLeak(variant, means["auc"], tpr, by_metric["auc"], whole))
    return leaks


def attack_task(
    game: Game,
    tasks: Tasks,
    task: int,
    place: int,
    variant: str,
    signals: ModelSignals,
    seen: Stage | None,
    sums: Sums,
) -> dict[str, Found]:
    """Attack one task in one variant, by phi and by its outputs where they are known.

    Args:
        game: whose models learn in tasks.
        tasks: these tasks.
        task: number of the task, from 0.
        place: the stage at whose end the variant is, from 0.
        variant: its name.
        signals: of all models in it.
        seen: its outputs; None if they are not known.
        sums: of the stages before; this one is added if outputs are known.

    Returns:
        Every attack but controls.
    """
    phi = attack_phi(game, tasks, task, variant, signals)
    if seen is None:
        return attack_scores(phi, game.audited[:, tasks.task == task])
    cell = make_cell(tasks, place, seen, task, game.members, game.cases)
    found = attack_cell(cell, task, sums, phi)
    return {name: each for name, each in found.items() if not each.row.control}
