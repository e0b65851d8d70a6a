"""Cost of normal equations: those of which tasks, by hand."""

from types import SimpleNamespace

import pytest

from continual.normal_equations import solve_membership
from datamodules import Digits
from fleet import equations
from fleet.equations import EquationsCost, operations, try_equations
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.continual_options import ContinualOptions

OPTIONS = ContinualOptions(2, learner="acil", analytic=AnalyticOptions(buffer=16))


@pytest.fixture(scope="module")
def data():
    """Sixty candidates of two tasks."""
    data = Digits(pool_size=60, batch_size=4)
    data.setup("fit")
    return data


@pytest.fixture
def solved(monkeypatch):
    """Trials in which every solution takes a second of a clock of ours."""
    clock, sizes = [0.0], []

    def solve(features, targets, weight, gamma):
        clock[0] += 1.0
        sizes.append(features.shape)
        return solve_membership(features, targets, weight, gamma)

    monkeypatch.setattr(equations, "solve_membership", solve)
    monkeypatch.setattr(equations, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return sizes


def test_the_time_is_that_of_all_tasks_by_hand(data, solved, monkeypatch):
    first = int((data.pool.labels < 5).sum())
    cost = try_equations(OPTIONS, data)
    assert solved[-1] == (60, 16)
    assert cost.memory == 3 * 8 * 60**2
    assert cost.seconds == pytest.approx(1 + operations(first, 16, 10) / operations(60, 16, 10))
    monkeypatch.setattr(equations, "TRIED", 20)
    scaled = sum(operations(n, 16, 10) for n in (first, 60)) / operations(20, 16, 10)
    assert try_equations(OPTIONS, data).seconds == pytest.approx(scaled)
    assert solved[-1] == (20, 16)


def test_tasks_with_more_candidates_than_are_solved_for_cost_nothing(data, solved, monkeypatch):
    first = int((data.pool.labels < 5).sum())
    monkeypatch.setattr(equations, "MOST", 59)
    assert try_equations(OPTIONS, data) == pytest.approx((1.0, 3 * 8 * first**2))
    monkeypatch.setattr(equations, "MOST", 5)
    assert try_equations(OPTIONS, data) == EquationsCost()


def test_learners_that_take_gradients_solve_nothing(data):
    assert try_equations(ContinualOptions(2), data) == EquationsCost()
