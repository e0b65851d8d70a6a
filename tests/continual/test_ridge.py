import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from continual.ridge import (
    Gram,
    as_targets,
    check_gamma,
    gram_of,
    grow,
    solve_ridge,
    start_ridge,
    update_ridge,
)

GAMMA = 0.1
EXACT = {"rtol": 0, "atol": 1e-8}


def learn(rows, batch, order=range(5)):
    """Learn the tasks in turn, in batches, with a column more for each class that is seen."""
    ridge = start_ridge(150, GAMMA)
    for task in order:
        chosen = rows.members & (rows.task == task)
        seen = 2 * (max(order[: order.index(task) + 1]) + 1)
        pairs = zip(
            rows.features[chosen].split(batch), rows.targets[chosen].split(batch), strict=True
        )
        for features, targets in pairs:
            ridge = update_ridge(ridge, features, targets[:, :seen])
    return ridge


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_learning_in_turn_is_ridge_regression_over_all_rows(rows, batch):
    ridge = learn(rows, batch)
    features, targets = rows.features[rows.members], rows.targets[rows.members]
    oracle = SklearnRidge(alpha=GAMMA, fit_intercept=False, solver="svd")
    oracle.fit(features.numpy(), targets.numpy())
    torch.testing.assert_close(ridge.weight, torch.as_tensor(oracle.coef_).T, **EXACT)
    matrix = features.T @ features + GAMMA * torch.eye(150, dtype=torch.float64)
    torch.testing.assert_close(ridge.inverse, torch.linalg.inv(matrix), **EXACT)


def test_the_order_of_tasks_does_not_matter(rows):
    ordered, shuffled = learn(rows, 32), learn(rows, 50, [4, 1, 0, 3, 2])
    torch.testing.assert_close(ordered.weight, shuffled.weight, **EXACT)
    torch.testing.assert_close(ordered.inverse, shuffled.inverse, **EXACT)


def test_a_batch_larger_than_what_is_learnt_at_once_is_split(rows):
    targets = rows.targets
    ridge = update_ridge(start_ridge(150, GAMMA), rows.features, targets)
    solved = solve_ridge(gram_of(rows.features, targets), GAMMA)
    torch.testing.assert_close(ridge.weight, solved.weight, **EXACT)


def test_sums_of_parts_solve_as_the_whole(rows):
    """More columns than rows, too: gamma alone holds the rest."""
    few = 60
    parts = [gram_of(rows.features[i : i + 20], rows.targets[i : i + 20]) for i in (0, 20, 40)]
    whole = Gram(sum(part.gram for part in parts), sum(part.moment for part in parts))
    ridge = solve_ridge(whole, GAMMA)
    features, targets = rows.features[:few], rows.targets[:few]
    kernel = features @ features.T + GAMMA * torch.eye(few, dtype=torch.float64)
    dual = features.T @ torch.linalg.solve(kernel, targets)
    torch.testing.assert_close(ridge.weight, dual, **EXACT)


def test_new_classes_begin_at_zero():
    weight = torch.ones(2, 1, dtype=torch.float64)
    assert grow(weight, 3).tolist() == [[1, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="each of the 3 classes seen so far, got 1"):
        grow(torch.ones(2, 3, dtype=torch.float64), 1)


def test_targets_are_zeros_and_ones():
    targets = as_targets(torch.tensor([1, 0]), 3)
    assert targets.dtype == torch.float64
    assert targets.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ValueError, match="must be above 0"):
        start_ridge(3, gamma)


def test_a_gamma_below_the_precision_is_refused_with_one_that_would_do(rows):
    sums = gram_of(rows.features, rows.targets)
    with pytest.raises(
        ValueError, match=r"too small for float64.*Raise it to .* or more"
    ) as caught:
        solve_ridge(sums, 1e-12)
    remedy = float(str(caught.value).split("Raise it to ")[1].split()[0])
    ridge = solve_ridge(sums, remedy)
    assert ridge.weight.isfinite().all()
    with pytest.raises(ValueError, match="or compute in float64"):
        check_gamma(1e5, 0.1, torch.float32)
    check_gamma(1e5, 0.1)


def test_the_bound_on_rounding_holds(rows):
    """In float32 the weights move by less than the refusal says they may."""
    features, targets = rows.features[rows.members], rows.targets[rows.members]
    gamma = 1.0
    exact = solve_ridge(gram_of(features, targets), gamma).weight
    matrix = features.T @ features + gamma * torch.eye(150, dtype=torch.float64)
    single = torch.linalg.solve(matrix.float(), (features.T @ targets).float())
    error = (single - exact).norm() / exact.norm()
    assert error < torch.finfo(torch.float32).eps * (1 + features.square().sum() / gamma)
