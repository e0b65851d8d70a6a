"""What is selected of one task and stage."""

import pytest
import torch

from attacks.continual.cell import make_cell
from attacks.continual.pairs import Heads, pair
from attacks.game import keep_examples
from attacks.tasks import RoundedWorlds, Stage, task_of


def test_a_cell_has_the_tasks_examples_and_the_classes_seen_so_far(learners, cell_of):
    cell = cell_of(learners, task=1, place=2)
    early = cell_of(learners, task=0, place=1)
    outputs = learners.tasks.stages[1].outputs[:, learners.tasks.task == 0]
    assert torch.equal(early.residuals, early.truth - outputs[..., :7])
    chosen = [i for i, label in enumerate(learners.tasks.labels.tolist()) if label in (4, 5, 6)]
    assert cell.labels.tolist() == [learners.tasks.labels[i] for i in chosen]
    assert cell.own == [4, 5, 6]
    outputs = learners.tasks.stages[2].outputs
    for place, example in enumerate(chosen[:5]):
        expected = -outputs[0, example]
        expected[learners.tasks.labels[example]] += 1
        assert torch.equal(cell.residuals[0, place], expected)
        assert torch.equal(cell.members[:, place], learners.members[:, example])
    world = learners.tasks.stages[2].worlds[8]
    residuals = cell.truth - world.outputs[:, chosen]
    expected = pair(Heads(residuals, world.leverage[:, chosen], world.members[:, chosen]))
    assert all(map(torch.equal, cell.worlds[8], expected))


def test_rounded_worlds_are_taken_as_they_are(learners, cell_of):
    """Over the columns of the classes seen so far, as residuals."""
    sides = torch.rand(2, 3, len(learners.tasks.labels), 10)
    stage = Stage(*learners.tasks.stages[1][:2], rounded={9: RoundedWorlds(*sides)})
    cell = make_cell(learners.tasks, 1, stage, 0, learners.members, learners.cases)
    chosen = learners.tasks.task == 0
    assert [*cell.worlds] == [9]
    for side, found in zip(sides, cell.worlds[9], strict=True):
        assert torch.equal(found, (cell.truth - side[:, chosen][..., :7]).double())


def test_what_a_stage_gained_is_known_of_its_own_task_alone(learners, cell_of):
    assert cell_of(learners, 1, 1).outside is not None
    assert cell_of(learners, 1, 2).outside is None


def test_a_task_is_not_attacked_before_it_is_learned(learners, cell_of):
    with pytest.raises(ValueError, match=r"got task 3 after stage 2. Take stages from 3 on"):
        cell_of(learners, 2, 1)


def test_tasks_on_some_examples_are_read_stage_by_stage(learners):
    kept = torch.tensor([3, 5, 11])
    part = learners.tasks.on(kept)
    assert len(part.stages) == 3
    assert torch.equal(part.stages[2].outputs, learners.tasks.stages[2].outputs[:, kept])
    assert torch.equal(part.stages[2].outside, learners.tasks.stages[2].outside[:, kept])
    worlds, whole = part.stages[0].worlds[9], learners.tasks.stages[0].worlds[9]
    assert torch.equal(worlds.members, whole.members[:, kept])
    assert part.task.tolist() == [learners.tasks.task[i] for i in kept.tolist()]


def test_a_game_on_some_examples_has_their_stages(learners):
    usable = learners.tasks.labels != 5
    part = keep_examples(learners, usable)
    assert torch.equal(part.tasks.labels, learners.tasks.labels[usable])
    for stage in ("task-1", "task-2", "full"):
        found, whole = part.by_stage[stage].read(), learners.by_stage[stage]
        assert torch.equal(found.phi, whole.phi[..., usable])
        assert torch.equal(found.labels[1], whole.labels[1])


def test_a_class_without_a_task_is_marked():
    assert task_of(torch.tensor([0, 2, 7]), [[2, 3], [0, 1]]).tolist() == [1, 0, -1]
