"""What variants at the end of training leak, task by task."""

from collections.abc import Sequence
from typing import NamedTuple

from attacks.continual.comparisons import choose, mean_over_tasks
from attacks.continual.phi_attacks import attack_phi
from attacks.continual.rows import attack_scores
from attacks.game import Game
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured, Metric
from attacks.tasks import Tasks


class VariantLeak(NamedTuple):
    """What attacks on phi find of each task in one variant at the end of training.

    Attributes:
        variant: its name.
        auc: mean over tasks, each by the attack that is strongest on other targets.
        tpr_1pct: the same at 1% FPR.
        by_task: AUC of each task.
    """

    variant: str
    auc: Estimate
    tpr_1pct: Estimate
    by_task: list[Estimate]


def attack_variants(game: Game, tasks: Tasks, usable: Sequence[int]) -> list[VariantLeak]:
    """Attack every variant at the end of training by phi, task by task; empty for `full` alone."""
    leaks = []
    for variant, signals in game.signals.items() if len(game.signals) > 1 else ():
        by_metric: dict[Metric, list[Estimate]] = {"auc": [], "tpr_1pct": []}
        parts: dict[Metric, list[Measured]] = {"auc": [], "tpr_1pct": []}
        for task in usable:
            members = game.audited[:, tasks.task == task]
            scores = attack_phi(game, tasks, task, variant, signals)
            found = attack_scores(scores, members)
            for metric in parts:
                measured, _ = choose(found, metric)
                parts[metric].append(measured)
                by_metric[metric].append(two_way(measured))
        means = {metric: two_way(mean_over_tasks(known)) for metric, known in parts.items()}
        leaks.append(VariantLeak(variant, means["auc"], means["tpr_1pct"], by_metric["auc"]))
    return leaks
