"""What R and exemplars give away."""

import pytest
import torch

from attacks.continual.state import (
    exemplars,
    fisher_bound,
    fisher_equations,
    fisher_lira,
    leverage_lira,
    leverage_threshold,
    normal_equations,
    range_test,
    subnetwork_lira,
    subnetwork_share,
)
from attacks.lira import lira
from attacks.metrics.roc import auc, roc
from benchmarks.synthetic_heads import Options, make_game


def areas(scores, cell):
    return [auc(roc(*row)).item() for row in zip(scores, cell.members[cell.targets], strict=True)]


@pytest.mark.parametrize("task", [0, 1, 2])
def test_the_range_test_finds_every_member_of_a_task_with_fewer_rows_than_features(
    learners, cell_of, task
):
    cell = cell_of(learners, task, task)
    assert cell.members[cell.targets].sum(1).max() < 128
    assert areas(range_test(cell), cell) == pytest.approx([1, 1], abs=1e-12)


def test_the_range_test_finds_nothing_where_rows_are_more_than_features(cell_of):
    cell = cell_of(make_game(Options(pool=300, tasks=2, width=24, worlds=1)), 1, 1)
    assert areas(range_test(cell), cell) == [0.5, 0.5]


def test_the_range_test_looks_at_the_tasks_own_stage(learners, cell_of):
    with pytest.raises(ValueError, match="in the task's own stage, got another stage"):
        range_test(cell_of(learners, 0, 2))


def test_members_have_smaller_leverages(learners, cell_of):
    cell = cell_of(learners, 0, 0)
    for form in ("float64", "float16", "int8"):
        assert min(areas(leverage_threshold(cell, form), cell)) > 0.8
        known = cell.leverage[form].double()
        expected = lira(known[8:, None], known[:8, None], cell.members[:8], "fixed", "mean")
        assert torch.equal(leverage_lira(cell, form), expected)
        assert min(areas(leverage_lira(cell, form), cell)) > 0.95


def test_normal_equations_are_those_of_the_audited_models(learners, cell_of):
    """By hand: model r is said to have learnt example e by (r + e) / 1000."""
    cell = cell_of(learners, 0, 1)
    with pytest.raises(ValueError, match=r"not recorded of this learner.*--continual.learner acil"):
        normal_equations(cell._replace(solved=None))
    rows, examples = torch.arange(len(cell.members)), torch.arange(len(cell.labels))
    solved = (rows[:, None] + examples).double() / 1000
    found = normal_equations(cell._replace(solved=solved))
    assert torch.equal(found, solved[cell.targets])


def test_exemplars_are_members_for_certain(learners, cell_of):
    cell = cell_of(learners, 0, 1)
    with pytest.raises(ValueError, match=r"keeps no exemplars.*--continual.replay"):
        exemplars(cell)
    kept = cell.members & (torch.arange(len(cell.labels)) % 4 == 0)
    found = exemplars(cell._replace(exemplars=kept))
    assert torch.equal(found.bool(), kept[8:])


def test_a_fisher_rules_out_who_exceeds_it(learners, cell_of):
    """By hand: every second non-member does, so half of the pairs are told and half of them tie."""
    cell = cell_of(learners, 0, 0)
    outside = (~cell.members).cumsum(1)
    excess = torch.where(~cell.members & (outside % 2 == 0), 1.0, -torch.rand(cell.members.shape))
    cell = cell._replace(fisher_excess=excess)
    shares = [
        (row > 0).sum() / (~inside).sum() for row, inside in zip(excess, cell.members, strict=True)
    ]
    expected = [0.5 + shares[row].item() / 2 for row in cell.targets]
    assert areas(fisher_bound(cell), cell) == pytest.approx(expected)
    known = excess.double()
    expected = lira(known[8:, None], known[:8, None], cell.members[:8], "fixed", "mean")
    assert torch.equal(fisher_lira(cell), expected)


def test_what_is_solved_of_a_fisher_is_that_of_the_audited_models(learners, cell_of):
    cell = cell_of(learners, 0, 0)
    solved = torch.arange(cell.members.numel()).view(cell.members.shape) / 1000
    found = fisher_equations(cell._replace(fisher_solved=solved))
    assert torch.equal(found, solved[cell.targets].double())


@pytest.mark.parametrize("attack", [fisher_bound, fisher_lira, fisher_equations])
def test_a_fisher_tells_of_its_own_task(learners, cell_of, attack):
    tasks = learners.tasks
    stages = [
        stage._replace(fisher_excess=stage.outputs[..., 0], fisher_solved=stage.outputs[..., 0])
        for stage in tasks.stages
    ]
    game = learners._replace(tasks=tasks._replace(stages=stages))
    assert attack(cell_of(game, 1, 1)).isfinite().all()
    with pytest.raises(ValueError, match=r"own stage, of a learner .*--continual.ewc"):
        attack(cell_of(game, 0, 1))


def test_a_subnetwork_tells_by_the_share_of_activations_on_it(learners, cell_of):
    """Who is a member by twice the share, and nobody else; and the same beside shadows."""
    cell = cell_of(learners, 0, 0)
    share = torch.rand(cell.members.shape) / 9 + cell.members
    cell = cell._replace(subnetwork_share=share)
    assert torch.equal(subnetwork_share(cell), share[cell.targets].double())
    assert areas(subnetwork_share(cell), cell) == [1, 1]
    rows, shadows = share.double()[:, None], list(cell.cases[0].shadows)
    expected = lira(rows[cell.targets], rows[shadows], cell.members[shadows], "fixed", "mean")
    assert torch.equal(subnetwork_lira(cell), expected)


@pytest.mark.parametrize("attack", [subnetwork_share, subnetwork_lira])
def test_a_subnetwork_tells_of_its_own_task(learners, cell_of, attack):
    with pytest.raises(ValueError, match=r"the task after which it was chosen, .*learner ssd"):
        attack(cell_of(learners, 0, 1))
