"""The attacks on phi that every audit makes, on the examples of one task at a time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attacks import ATTACKS, RMIA
from attacks.choice import scorable, unknown
from attacks.evaluate import score
from attacks.game import Game, ModelSignals, keep_examples
from attacks.slices import Chosen
from attacks.tasks import Tasks

PHI_ATTACKS = "gap", "global_threshold", "rmia_online", "lira_online", "lira_online_fixed"


def attack_phi(
    game: Game, tasks: Tasks, task: int, variant: str, signals: ModelSignals
) -> dict[str, Float[Tensor, "targets examples"]]:
    """Scores of a task's examples by every attack on phi that can be made, with matched shadows.

    The population are the test examples of the task's own classes, as far as classes are known.

    Args:
        game: whose models learn in tasks.
        tasks: these tasks.
        task: number of the task, from 0.
        variant: the name of what is attacked.
        signals: of all models in it.
    """
    own = _of_task(signals, tasks.classes[task])
    part = game._replace(signals={variant: own}, others={}, calibrated={}, tasks=None)
    part = keep_examples(part, tasks.task == task)
    names = [name for name in PHI_ATTACKS if _can(name, part)]
    scores = score([n for n in names if not ATTACKS[n].shadows], part, variant, "none")
    return scores | score([n for n in names if ATTACKS[n].shadows], part, variant)


def _of_task(signals: ModelSignals, classes: Sequence[int]) -> ModelSignals:
    """Signals whose population is of some classes."""
    if signals.labels is None:
        return signals
    chosen = torch.isin(signals.labels[1].long(), torch.tensor(classes)).nonzero().flatten()
    known = {
        name: Chosen(signal, chosen)
        for name in ("population", "population_hinge")
        if (signal := getattr(signals, name)) is not None
    }
    return signals._replace(**known, features=None, labels=None)


def _can(name: str, part: Game) -> bool:
    """Whether a task's examples, and its population, suffice for an attack."""
    if unknown(name, part) or not scorable(part, ATTACKS[name].sides).all():
        return False
    populations = [signals.population for signals in part.signals.values()]
    return name not in RMIA or all(p is None or p.shape[-1] > 0 for p in populations)
