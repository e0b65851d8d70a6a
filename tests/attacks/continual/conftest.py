"""Fleets of ridge heads that learn the digits task by task, solved without any module of ours."""

import pytest

from attacks.continual.cell import make_cell
from benchmarks.synthetic_heads import Options, make_game


@pytest.fixture(scope="session")
def learners():
    """Eight shadows and two targets of three tasks; to be read, not changed."""
    return make_game(Options())


@pytest.fixture(scope="session")
def null_learners():
    """Learners whose membership was drawn anew after training: nothing of it can be found."""
    return make_game(Options(pool=1200, shadows=8, targets=1, width=96, tasks=2, shuffle=True))


@pytest.fixture(scope="session")
def cell_of():
    """One task's examples after one stage, both from 0."""

    def make(game, task, place):
        stage = game.tasks.stages[place]
        return make_cell(game.tasks, place, stage, task, game.members, game.cases)

    return make
