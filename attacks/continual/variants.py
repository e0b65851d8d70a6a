"""What variants at the end of training leak, task by task."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attacks.continual.cell import make_cell
from attacks.continual.comparisons import ENDS, choose, mean_over_tasks
from attacks.continual.phi_attacks import attack_phi
from attacks.continual.rows import Found, Sums, attack_cell, attack_scores
from attacks.game import FULL, Game, ModelSignals
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured
from attacks.shadow_halves import is_round_robin
from attacks.tasks import Stage, Tasks

WORLDS, SHADOWS = "residual_lira_worlds", "residual_lira"


class RoundedLeak(NamedTuple):
    """What heads find that were solved on halves of the pool and rounded as the variant was.

    Attributes:
        worlds: AUC of paired LiRA from them, mean over tasks.
        shadows: the same of LiRA on whole outputs, from matched shadows.
        gain: the first beyond the second; corrected for all variants.
    """

    worlds: Estimate
    shadows: Estimate
    gain: Difference


class VariantLeak(NamedTuple):
    """What attacks find of each task in one variant at the end of training.

    Attributes:
        variant: its name.
        auc: mean over tasks, each by the attack that is strongest on other targets.
        tpr_1pct: the same at 1% FPR.
        by_task: AUC of each task.
        whole: whether the attacks see whole output vectors, and not only phi.
        beyond: that AUC beyond the one of `full`, by the same attacks; corrected for all variants.
            None for `full`.
        rounded: what rounded heads find; None where there are none.
    """

    variant: str
    auc: Estimate
    tpr_1pct: Estimate
    by_task: list[Estimate]
    whole: bool
    beyond: Difference | None = None
    rounded: RoundedLeak | None = None


ByTask = list[dict[str, Found]]  # what every attack finds of each task


def attack_variants(
    game: Game, tasks: Tasks, usable: Sequence[int], end: Stage
) -> list[VariantLeak]:
    """Attack every variant at the end of training, task by task; empty for `full` alone.

    By attacks with matched shadows: on phi and, where they are known of every variant, on whole
    output vectors; and from heads over the target's own features, where they were rounded alike.
    A variant is compared with `full` by attacks that both are open to.

    Args:
        game: whose models learn in tasks.
        tasks: these tasks.
        usable: numbers of the tasks that are attacked, from 0.
        end: the last stage.
    """
    if len(game.signals) < 2:
        return []
    whole, place = game.signals.keys() - {FULL} <= tasks.outputs.keys(), len(tasks.classes) - 1
    cells: dict[str, ByTask] = {}
    for variant, signals in game.signals.items():
        seen = _seen(tasks, variant, end) if whole else None
        cells[variant] = [
            attack_task(game, tasks, task, place, variant, signals, seen, Sums()) for task in usable
        ]
    robin = is_round_robin(game)
    beyond, gains = _compare_with_full(cells, robin), _compare_with_shadows(cells, robin)
    leaks = []
    for variant, found in cells.items():
        best = {metric: [choose(cell, metric)[0] for cell in found] for metric in ENDS}
        auc, tpr = (two_way(mean_over_tasks(best[metric])) for metric in ENDS)
        by_task, rounded = [two_way(part) for part in best["auc"]], None
        if variant in gains:
            worlds, shadows = (two_way(_mean(found, name)) for name in (WORLDS, SHADOWS))
            rounded = RoundedLeak(worlds, shadows, gains[variant])
        leaks.append(VariantLeak(variant, auc, tpr, by_task, whole, beyond.get(variant), rounded))
    return leaks


def _seen(tasks: Tasks, variant: str, end: Stage) -> Stage:
    """What is seen of one variant: its outputs, and worlds if there are any of quantized ones."""
    if variant != FULL:
        rounded = tasks.worlds.get(variant, {})
        return Stage(tasks.outputs[variant], end.accuracy, rounded=rounded)
    return Stage(end.outputs, end.accuracy, worlds=end.worlds if tasks.worlds else {})


def _compare_with_full(cells: Mapping[str, ByTask], round_robin: bool) -> dict[str, Difference]:
    """AUC of the strongest attack on each variant beyond that on `full`."""
    outcomes, pairs = {}, {}
    for variant, found in cells.items():
        if variant == FULL:
            continue
        shared = [cell.keys() & full.keys() for cell, full in zip(found, cells[FULL], strict=True)]
        pairs[variant] = pair = variant, f"{FULL}, attacked as {variant}"
        for name, parts in zip(pair, (found, cells[FULL]), strict=True):
            # in the order of the attacks, which decides between equal ones
            kept = [
                {n: each for n, each in cell.items() if n in both}
                for cell, both in zip(parts, shared, strict=True)
            ]
            best = mean_over_tasks([choose(cell, "auc")[0] for cell in kept])
            outcomes[name] = Outcome(best, round_robin=round_robin)
    return dict(zip(pairs, paired_differences(outcomes, [*pairs.values()]), strict=True))


def _compare_with_shadows(cells: Mapping[str, ByTask], round_robin: bool) -> dict[str, Difference]:
    """AUC from rounded heads beyond that from shadows, of variants that both attack."""
    outcomes, pairs = {}, {}
    for variant, found in cells.items():
        if variant == FULL or not all({WORLDS, SHADOWS} <= cell.keys() for cell in found):
            continue
        pairs[variant] = f"{variant}, {WORLDS}", f"{variant}, {SHADOWS}"
        for name, attack in zip(pairs[variant], (WORLDS, SHADOWS), strict=True):
            outcomes[name] = Outcome(_mean(found, attack), round_robin=round_robin)
    return dict(zip(pairs, paired_differences(outcomes, [*pairs.values()]), strict=True))


def _mean(found: ByTask, attack: str) -> Measured:
    return mean_over_tasks([cell[attack].measured["auc"] for cell in found])


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
