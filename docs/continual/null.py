"""A null: what attacks find in recorded learners whose members are drawn anew afterwards.

Nothing can be found of members that are drawn after training, so an interval that lies off guessing
shows an attack, or an interval, that is wrong. Signals are those of the real learners.
"""

import json
from pathlib import Path

import torch

from attacks.continual.leaks import ContinualLeak, find_continual_leak
from attacks.game import Game
from docs.continual.fleets import RECIPE, name_of
from docs.continual.measures import MEASURES
from docs.study.null import Null, count_holding
from storage.evidence import gather
from storage.experiment import read_experiment
from storage.run_folder import RunFolder


def find_null(run_dir: Path) -> tuple[str, Null]:
    """The name of a fleet, and what attacks find of it if its members are drawn anew.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: its models do not learn in tasks.
    """
    run = RunFolder(run_dir)
    leak = find_continual_leak(draw_anew(gather(run, allow_partial=True).game))
    if leak is None:
        raise ValueError(
            f"`--null` needs networks that learn in tasks, and those of {run_dir} do not. Train "
            f"them by recipes/{RECIPE}."
        )
    return name_of(read_experiment(run.experiment_file).config), count(leak)


def draw_anew(game: Game) -> Game:
    """The same game, with the examples of each class in another order for who is a member.

    One order serves all models, so that pairs of shadows stay complementary, and tasks as large as
    they are.
    """
    if game.tasks is None:
        return game
    labels, generator = game.tasks.labels, torch.Generator().manual_seed(0)
    order = torch.arange(len(labels))
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero().flatten()
        order[own] = own[torch.randperm(len(own), generator=generator)]
    return game._replace(members=game.members[:, order])


def count(leak: ContinualLeak) -> Null:
    """Count the intervals that hold what guessing finds, over all tasks, stages and attacks."""
    return count_holding([row.summary for cell in leak.cells for row in cell.rows], MEASURES)


def write_null(nulls: dict[str, Null]) -> str:
    """Nulls as JSON."""
    return json.dumps({name: null._asdict() for name, null in nulls.items()})
