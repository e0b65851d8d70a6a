"""What one finds who only ever gets quantized networks: of each task, after each stage."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attacks.continual.comparisons import LEVELS, choose, mean_over_tasks, open_to
from attacks.continual.rows import Found, Sums
from attacks.continual.variants import attack_task
from attacks.game import FULL, Game, ModelSignals
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import Measured
from attacks.shadow_halves import is_round_robin
from attacks.tasks import Stage, Tasks

HOLDERS = LEVELS[:2]  # of the last snapshot, and of all


class Holder(NamedTuple):
    """What one who holds snapshots of one precision finds of earlier tasks at the end.

    Attributes:
        holds: the last `snapshot`, or all `snapshots`.
        auc: mean over all tasks but the last, of the strongest attack on other targets.
        tpr_1pct: the same at 1% FPR.
        beyond: AUC beyond that of one who holds as many unquantized snapshots; corrected for all
            precisions and holders. None for these themselves.
    """

    holds: str
    auc: Estimate
    tpr_1pct: Estimate
    beyond: Difference | None


class PrecisionLeak(NamedTuple):
    """What snapshots of one precision leak.

    Attributes:
        precision: name of the variant at the end of training; `full` for unquantized snapshots.
        auc: after each stage, of each attacked task that was learned by then: the strongest attack
            on this snapshot alone, on other targets.
        holders: of the last snapshot, and of all.
    """

    precision: str
    auc: list[list[Estimate]]
    holders: list[Holder]


Cells = list[dict[int, dict[str, Found]]]  # after each stage, of each task, by the attack's name


def attack_precisions(game: Game, tasks: Tasks, usable: Sequence[int]) -> list[PrecisionLeak]:
    """Attack all snapshots of each precision, the unquantized first; empty without quantized ones.

    All by the same attacks with matched shadows, on phi and on whole output vectors: leverages of
    the unquantized head say nothing exact of one that was rounded, so no precision is attacked by
    them. Precisions of `lacking_outputs` are left out.

    Args:
        game: whose models learn in tasks.
        tasks: these tasks.
        usable: numbers of the tasks that are attacked, from 0.
    """
    lacking = lacking_outputs(game, tasks)
    known = {name: s for name, s in game.quantized_stages.items() if name not in lacking}
    earlier = [task for task in usable if task < len(tasks.classes) - 1]
    if not known or not earlier:
        return []
    cells = {
        name: _attack_stages(game, tasks, usable, stages)
        for name, stages in {FULL: game.by_stage, **known}.items()
    }
    by_holder = {
        (name, holds[-1]): _find_earlier(of_stages, earlier, holds)
        for name, of_stages in cells.items()
        for holds in HOLDERS
    }
    beyond = _compare(by_holder, is_round_robin(game))
    holders = {
        (name, held): Holder(held, two_way(auc), two_way(tpr), beyond.get((name, held)))
        for (name, held), (auc, tpr) in by_holder.items()
    }
    return [
        PrecisionLeak(
            name,
            [[_measure_alone(cell) for cell in at.values()] for at in of_stages],
            [holders[name, holds[-1]] for holds in HOLDERS],
        )
        for name, of_stages in cells.items()
    ]


def lacking_outputs(game: Game, tasks: Tasks) -> dict[str, list[str]]:
    """Variants without recorded outputs, by the precision that is left out for that."""
    lacking = {
        name: [variant for variant in stages if variant not in tasks.outputs]
        for name, stages in game.quantized_stages.items()
    }
    return {name: variants for name, variants in lacking.items() if variants}


def _attack_stages(
    game: Game, tasks: Tasks, usable: Sequence[int], stages: Mapping[str, ModelSignals]
) -> Cells:
    """Attack each task from its own stage on, in snapshots of one precision."""
    sums, cells = Sums(), []
    for place, (name, signals) in enumerate(stages.items()):
        stage = tasks.stages[place]
        outputs = stage.outputs if stages is game.by_stage else tasks.outputs[name]
        seen = Stage(outputs, stage.accuracy)
        cells.append(
            {
                task: attack_task(game, tasks, task, place, name, signals, seen, sums)
                for task in usable
                if task <= place
            }
        )
    return cells


def _measure_alone(cell: Mapping[str, Found]) -> Estimate:
    """AUC of the strongest attack on one snapshot alone, chosen on other targets."""
    return two_way(choose(open_to(cell, cell, HOLDERS[0]), "auc")[0])


def _find_earlier(
    cells: Cells, earlier: Sequence[int], holds: Sequence[str]
) -> tuple[Measured, Measured]:
    """AUC and TPR at 1% FPR at the end, mean over earlier tasks."""
    held = [open_to(cells[task][task], cells[-1][task], holds) for task in earlier]
    auc, tpr = (
        mean_over_tasks([choose(cell, metric)[0] for cell in held])
        for metric in ("auc", "tpr_1pct")
    )
    return auc, tpr


def _compare(
    by_holder: Mapping[tuple[str, str], tuple[Measured, Measured]], round_robin: bool
) -> dict[tuple[str, str], Difference]:
    """AUC of each precision and holder beyond that of the unquantized, corrected for all."""
    outcomes = {
        f"{name}, {holds}": Outcome(auc, round_robin=round_robin)
        for (name, holds), (auc, _) in by_holder.items()
    }
    keys = [key for key in by_holder if key[0] != FULL]
    pairs = [(f"{name}, {holds}", f"{FULL}, {holds}") for name, holds in keys]
    return dict(zip(keys, paired_differences(outcomes, pairs), strict=True))
