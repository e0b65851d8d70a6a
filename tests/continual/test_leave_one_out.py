import pytest
import torch

from continual.leave_one_out import (
    changed_weights,
    influence,
    leverage_if_learnt,
    leverages,
    outputs_with,
    outputs_without,
    residuals_without_group,
)
from continual.ridge import gram_of, solve_ridge

GAMMA = 0.1
EXACT = {"rtol": 0, "atol": 1e-8}


def retrain(rows, chosen):
    """Brute force: solve again over some rows."""
    return solve_ridge(gram_of(rows.features[chosen], rows.targets[chosen]), GAMMA)


@pytest.fixture
def ridge(rows):
    return retrain(rows, rows.members)


def test_outputs_without_a_row_are_those_of_retraining(rows, ridge):
    outputs, leverage = rows.features @ ridge.weight, leverages(ridge.inverse, rows.features)
    members = rows.members.nonzero().flatten()[::15]
    without = outputs_without(outputs[members], rows.targets[members], leverage[members])
    for place, member in enumerate(members):
        chosen = rows.members.clone()
        chosen[member] = False
        other = retrain(rows, chosen)
        torch.testing.assert_close(without[place], rows.features[member] @ other.weight, **EXACT)


def test_outputs_with_one_more_row_are_those_of_retraining(rows, ridge):
    outputs, leverage = rows.features @ ridge.weight, leverages(ridge.inverse, rows.features)
    others = (~rows.members).nonzero().flatten()[::15]
    after = outputs_with(outputs[others], rows.targets[others], leverage[others])
    for place, other in enumerate(others):
        chosen = rows.members.clone()
        chosen[other] = True
        grown = retrain(rows, chosen)
        torch.testing.assert_close(after[place], rows.features[other] @ grown.weight, **EXACT)
        own = leverages(grown.inverse, rows.features[other : other + 1])
        torch.testing.assert_close(leverage_if_learnt(leverage[other : other + 1]), own, **EXACT)


def test_weights_of_rows_that_change_sides_are_those_of_retraining(rows, ridge):
    chosen = torch.arange(0, len(rows.members), 17)
    learnt = rows.members[chosen]
    assert 0 < learnt.sum() < len(learnt)
    weights = changed_weights(ridge, rows.features[chosen], rows.targets[chosen], learnt)
    for place, example in enumerate(chosen):
        other = rows.members.clone()
        other[example] = not other[example]
        torch.testing.assert_close(weights[place].T, retrain(rows, other).weight, **EXACT)


def test_a_row_added_and_left_out_again_changes_nothing(rows, ridge):
    others = ~rows.members
    outputs, targets = rows.features[others] @ ridge.weight, rows.targets[others]
    leverage = leverages(ridge.inverse, rows.features[others])
    added = outputs_with(outputs, targets, leverage)
    back = outputs_without(added, targets, leverage_if_learnt(leverage))
    torch.testing.assert_close(back, outputs, **EXACT)


def test_a_group_left_out_is_retraining_without_it(rows, ridge):
    group = rows.members.nonzero().flatten()[:12]
    residuals = rows.targets[group] - rows.features[group] @ ridge.weight
    without = residuals_without_group(ridge.inverse, rows.features[group], residuals)
    chosen = rows.members.clone()
    chosen[group] = False
    expected = rows.targets[group] - rows.features[group] @ retrain(rows, chosen).weight
    torch.testing.assert_close(without, expected, **EXACT)


def test_influence_on_other_queries_is_that_of_retraining(rows, ridge):
    members = rows.members.nonzero().flatten()[::60]
    queries = rows.features[~rows.members][:9]
    residuals = rows.targets[members] - rows.features[members] @ ridge.weight
    effects = influence(ridge.inverse, queries, rows.features[members], residuals)
    for place, member in enumerate(members):
        chosen = rows.members.clone()
        chosen[member] = False
        expected = queries @ (ridge.weight - retrain(rows, chosen).weight)
        torch.testing.assert_close(effects[:, place], expected, **EXACT)


def test_leverages_only_fall_as_tasks_come(rows):
    """And those of all rows that were learnt sum to the degrees of freedom."""
    chosen, before = torch.zeros(500, dtype=torch.bool), None
    for task in range(5):
        chosen |= rows.members & (rows.task == task)
        ridge = retrain(rows, chosen)
        leverage = leverages(ridge.inverse, rows.features)
        assert before is None or (leverage <= before + 1e-9).all()
        assert (leverage[chosen] < 1).all()
        values = torch.linalg.svdvals(rows.features[chosen]).square()
        freedom = (values / (values + GAMMA)).sum()
        torch.testing.assert_close(leverage[chosen].sum(), freedom, rtol=1e-9, atol=0)
        before = leverage


def test_leaving_out_what_was_not_learnt_is_refused():
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"below 1, got 1\.5"):
        outputs_without(one[None], one[None], 1.5 * one)
