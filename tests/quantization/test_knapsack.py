from itertools import product

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from quantization.knapsack import Item, find_frontier, greedy, greedy_within

WIDTHS = (32, 8, 4, 3, 2)


def draw(rng, items, options=5, monotone=True):
    """Layers of awkward sizes; losses fall with bits unless they are noise."""
    made = []
    for number in range(items):
        size = int(rng.integers(1, 60)) * 9
        costs = [size * width // 8 + 5 * size // 9 for width in WIDTHS[:options]]
        scale = np.exp(2 * rng.normal())
        losses = [scale * 4.0**-w * np.exp(0.3 * rng.normal()) for w in WIDTHS[:options]]
        if not monotone:
            losses = rng.random(options).round(1).tolist()  # with ties, and zeros
        made.append(Item(f"layer{number}", costs, losses))
    return made


def total(items, selection, field):
    return sum(getattr(i, field)[option] for i, option in zip(items, selection, strict=True))


def enumerate_all(items):
    """Bytes and loss of every selection there is."""
    for selection in product(*(range(len(item.costs)) for item in items)):
        yield total(items, selection, "costs"), total(items, selection, "losses")


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_frontier_is_that_of_every_selection(seed, monotone):
    items = draw(np.random.default_rng(seed), 5, 4, monotone)
    best: list[tuple[int, float]] = []
    for cost, loss in sorted(enumerate_all(items)):
        if not best or loss < best[-1][1] - 1e-12:
            best.append((cost, loss))
    frontier = find_frontier(items)
    kept = [
        (cost, loss)
        for (cost, loss), before in zip(
            zip(frontier.costs.tolist(), frontier.losses.tolist(), strict=True),
            [np.inf, *frontier.losses.tolist()],
            strict=False,
        )
        if loss < before - 1e-12  # equal losses may differ by the order of their sum
    ]
    assert [cost for cost, _ in kept] == [cost for cost, _ in best]
    assert [loss for _, loss in kept] == pytest.approx([loss for _, loss in best])
    for point in range(len(frontier.costs)):
        selection = frontier.selection(point)
        assert total(items, selection, "costs") == frontier.costs[point]
        assert total(items, selection, "losses") == pytest.approx(frontier.losses[point])


def by_milp(items, budget, scale):
    """HiGHS on losses over the loss of a feasible selection, without which its gap is too wide."""
    costs = np.concatenate([item.costs for item in items])
    losses = np.concatenate([item.losses for item in items]) / scale
    one = np.zeros((len(items), len(costs)))
    start = 0
    for row, item in enumerate(items):
        one[row, start : start + len(item.costs)] = 1
        start += len(item.costs)
    constraints = [LinearConstraint(one, 1, 1), LinearConstraint(costs[None], -np.inf, budget)]
    solved = milp(
        losses,
        constraints=constraints,
        integrality=np.ones_like(losses),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return solved.fun * scale


@pytest.mark.parametrize("seed", range(8))
def test_budgets_are_spent_as_an_integer_program_spends_them(seed):
    rng = np.random.default_rng(100 + seed)
    items = draw(rng, 20)
    frontier = find_frontier(items)
    for share in (0.05, 0.3, 0.7):
        budget = frontier.costs[0] + share * (frontier.costs[-1] - frontier.costs[0])
        point = frontier.within(budget)
        assert frontier.costs[point] <= budget
        start = [0] * len(items)
        feasible = total(items, greedy_within(items, start, budget), "losses")
        expected = by_milp(items, budget, feasible)
        assert frontier.losses[point] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("monotone", [True, False])
def test_the_exact_choice_is_never_worse_than_the_greedy_one(monotone):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        items = draw(rng, 12, monotone=monotone)
        frontier = find_frontier(items)
        for share in rng.random(3):
            budget = frontier.costs[0] + share * (frontier.costs[-1] - frontier.costs[0])
            selection = greedy_within(items, [0] * len(items), budget)
            assert total(items, selection, "costs") <= budget
            exact = frontier.losses[frontier.within(budget)]
            assert exact <= total(items, selection, "losses") * (1 + 1e-12)


def aiq(items, weight):
    """AIQ's objective of bytes and loss, for 10^6 FLOPs beside 10^4 bytes of activations."""

    def objective(cost, loss):
        return -weight * 1e6 / (1e4 + cost) / 60 + (1 - weight) * loss / 10

    def of(selection):
        return objective(total(items, selection, "costs"), total(items, selection, "losses"))

    return objective, of


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9, 0.99])
def test_one_frontier_minimises_aiqs_objective_for_every_lambda(weight):
    for seed in range(5):
        items = draw(np.random.default_rng(seed), 6, 4)
        objective, of = aiq(items, weight)
        frontier = find_frontier(items)
        points = zip(frontier.costs.tolist(), frontier.losses.tolist(), strict=True)
        found = min(objective(*point) for point in points)
        assert found == pytest.approx(min(objective(*one) for one in enumerate_all(items)))
        assert found <= of(greedy([0] * 6, [4] * 6, of)) + 1e-12


def test_the_greedy_search_by_hand():
    """It takes 8 for the large layer at once, which 4 would beat, and never comes back to it."""
    items = [Item("a", [32, 8, 4], [0, 1, 3]), Item("b", [16, 4, 2], [0, 1, 9])]
    weights, tried = {}, []

    def objective(selection):
        tried.append(tuple(selection))
        return total(items, selection, "costs") + 5 * total(items, selection, "losses")

    assert objective([0, 0]) == 48
    weights = {option: objective([option, 0]) for option in (1, 2)}
    assert weights == {1: 29, 2: 35}
    tried.clear()
    assert greedy([0, 0], [3, 3], objective) == [1, 1]
    # the start, both changes of both layers, both of the second, and nothing is left
    assert tried == [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (1, 2)]


def test_greedy_search_takes_the_evaluations_of_the_authors():
    """420 for the 20 layers of a ResNet-20 and two candidates, if every layer is changed."""
    count = 0

    def objective(selection):
        nonlocal count
        count += 1
        return -sum(selection) - 1e-3 * selection[0]

    assert greedy([0] * 20, [3] * 20, objective) == [2] * 20
    assert count == 1 + 420


def test_a_single_layer_has_its_own_options():
    frontier = find_frontier([Item("only", [32, 8, 4], [0.0, 0.5, 0.25])])
    assert frontier.costs.tolist() == [4, 32]
    assert frontier.losses.tolist() == [0.25, 0.0]
    assert [frontier.selection(point) for point in range(2)] == [[2], [0]]


def test_what_cannot_be_chosen_is_an_error():
    nan, inf = float("nan"), float("inf")
    good = Item("good", [2, 1], [0.0, 1.0])
    for solve in (find_frontier, lambda items: greedy_within(items, [0] * len(items), 100.0)):
        with pytest.raises(ValueError, match="`bad`: the expected loss must be a number, got NaN"):
            solve([good, Item("bad", [2, 1], [0.0, nan])])
        with pytest.raises(ValueError, match=r"`bad`: no candidate is left.*mixed\.candidates"):
            solve([good, Item("bad", [2, 1], [inf, inf])])
    with pytest.raises(ValueError, match="The budget must be 1 bytes or more, got 0"):
        find_frontier([good]).within(0.0)
    with pytest.raises(ValueError, match="The budget must be 1 bytes or more, got 0"):
        greedy_within([good], [0], 0.0)


def test_an_option_that_loses_everything_is_not_taken():
    items = [Item("a", [8, 4, 2], [0.0, 1.0, float("inf")]), Item("b", [8, 4], [0.0, 0.5])]
    frontier = find_frontier(items)
    assert frontier.costs.tolist() == [8, 12, 16]
    assert greedy_within(items, [0, 0], 8.0) == [1, 1]
