"""Membership from a ridge head alone."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from attacks.metrics.roc import auc, roc
from continual.normal_equations import MOST, solve_membership


def make(examples, columns, seed=0, gamma=0.1, classes=10):
    """Digits, random features, and a head that learns a random half of them."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.from_numpy(part[:examples]) for part in load_digits(return_X_y=True))
    projection = torch.randn(64, columns, generator=generator, dtype=torch.float64)
    features = (images / 16 @ projection).relu()
    targets = torch.eye(classes, dtype=torch.float64)[labels]
    learnt = torch.rand(examples, generator=generator) < 0.5
    rows, wanted = features[learnt], targets[learnt]
    ridge = rows.T @ rows + gamma * torch.eye(columns, dtype=torch.float64)
    return features, targets, torch.linalg.solve(ridge, rows.T @ wanted), learnt


def test_every_learnt_row_is_solved_for_where_there_are_enough_equations():
    features, targets, weight, learnt = make(400, 100)
    solved = solve_membership(features, targets, weight, 0.1)
    assert (solved - learnt.double()).abs().max() < 0.05
    rounded = solve_membership(features, targets, weight.float().double(), 0.1)
    assert torch.equal(rounded > 0.5, learnt)


@pytest.mark.parametrize("columns", [12, 60])
def test_the_solution_is_that_of_the_equations_written_out(columns):
    """One equation per column and output; the solution closest to 0.3, by NumPy."""
    features, targets, weight, _ = make(90, columns)
    residuals = targets - features @ weight
    equations = np.stack(
        [torch.outer(row, left).flatten() for row, left in zip(features, residuals, strict=True)], 1
    )
    wanted = 0.1 * weight.flatten().numpy() - equations @ np.full(90, 0.3)
    closest = 0.3 + np.linalg.lstsq(equations, wanted, rcond=1e-9)[0]
    solved = solve_membership(features, targets, weight, 0.1, prior=0.3)
    np.testing.assert_allclose(solved, closest, atol=1e-3)


def test_few_equations_tell_most_members_apart():
    """By counting: 20 columns and 9 free outputs are 180 equations for 600 candidates."""
    features, targets, weight, learnt = make(600, 20)
    assert 0.7 < auc(roc(solve_membership(features, targets, weight, 0.1), learnt)) < 0.95


def test_nothing_is_found_of_a_head_that_learnt_other_rows():
    """Rows are told by what the head learnt, and by nothing else that differs between examples."""
    features, targets, weight, _ = make(400, 100)
    solved = solve_membership(features[:, torch.randperm(100)], targets, weight, 0.1)
    members = torch.from_numpy(np.random.default_rng(0).random(400) < 0.5)
    assert auc(roc(solved, members)).item() == pytest.approx(0.5, abs=0.09)  # three standard errors


def test_too_many_candidates_are_refused():
    many = torch.zeros(MOST + 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="10,000 candidates at most, got 10,001"):
        solve_membership(many, many, torch.zeros(1, 1, dtype=torch.float64), 0.1)
