"""Who was in a Fisher diagonal, against other solvers, and where there is nothing to find."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.metrics.roc import auc, roc
from continual import fisher_equations as module
from continual.fisher import consolidate, diagonal_fisher, gained, squared_slopes
from continual.fisher_equations import MOST, ROUNDING, Measured, solve_sum, tell
from lightning_modules.networks import build_network

SCALE = 0.08


@pytest.fixture(scope="module")
def learnt():
    """A network that has learnt half of 120 digits, the digits, and which they are."""
    draws = torch.Generator().manual_seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = build_network("mlp", 10, 1, {"widths": [32]}, (1, 8, 8))
    pixels, labels = (torch.as_tensor(part[:120]) for part in load_digits(return_X_y=True))
    images, members = pixels.float().view(-1, 1, 8, 8) / 16, torch.rand(120, generator=draws) < 0.5
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(network(images[members]), labels[members].long()).backward()
        optimizer.step()
    return network, images, members


def measure(network, images, scale=SCALE):
    fisher = diagonal_fisher(network, images, scale)
    return Measured(fisher, fisher, len(images))


def flat(parts, start):
    return torch.cat([part.flatten(start) for part in parts.values()], -1).double()


def test_the_fisher_is_the_mean_of_the_squares_that_the_attack_takes(learnt):
    network, images, members = learnt
    squares = torch.cat([flat(part, 1) for part in squared_slopes(network, images, SCALE)])
    fisher = flat(diagonal_fisher(network, images[members], SCALE), 0)
    torch.testing.assert_close(squares[members].mean(0), fisher, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("scale", [SCALE, 1.0])
def test_everyone_is_found_where_there_are_more_weights_than_candidates(learnt, scale):
    network, images, members = learnt
    told = tell(network, images, measure(network, images[members], scale), scale, True)
    assert ((told.solved > 0.5) == members).all()
    assert told.excess[members].max() < 1e-4


def test_a_later_stage_is_told_by_what_holds_the_weights_before_and_after_it(learnt):
    network, images, members = learnt
    weights, other = dict(network.named_parameters()), copy.deepcopy(network)
    with torch.no_grad():
        for weight in other.parameters():
            weight *= 0.9  # where the stage before ended
    before = consolidate(None, dict(other.named_parameters()), diagonal_fisher(other, images))
    fisher = diagonal_fisher(network, images[members], SCALE)
    after = consolidate(before, weights, fisher)
    own = gained(before, after)
    for name, value in fisher.items():
        torch.testing.assert_close(
            own[name], value, rtol=0, atol=2e-7 * float(after.fisher[name].max())
        )
    told = tell(network, images, Measured(own, after.fisher, int(members.sum())), SCALE, True)
    assert auc(roc(told.solved, members)).item() > 0.99
    assert told.excess[members].max() < 1e-4
    assert gained(None, before) is before.fisher


def test_the_excess_matches_a_slow_loop_over_entries(learnt):
    """Only a non-member's squared gradient can be larger than the sum over the members."""
    network, images, members = learnt
    told = tell(network, images, measure(network, images[members]), SCALE, False)
    squares = torch.cat([flat(part, 1) for part in squared_slopes(network, images, SCALE)])
    total = int(members.sum()) * flat(diagonal_fisher(network, images[members], SCALE), 0)
    for row, excess in zip(squares, told.excess, strict=True):
        largest = max(
            (
                square / sum_
                for square, sum_ in zip(row.tolist(), total.tolist(), strict=True)
                if sum_
            ),
        )
        assert excess.item() == pytest.approx(np.log(largest), abs=1e-4)
    assert told.solved is None
    assert (told.excess[~members] > 0.01).any()


def test_nothing_is_found_in_the_fisher_of_other_examples(learnt):
    network, images, _ = learnt
    draws = torch.Generator().manual_seed(3)
    areas = []
    told = tell(network, images[:60], measure(network, images[60:]), SCALE, True)
    for _ in range(20):  # membership that has nothing to do with it
        members = torch.rand(60, generator=draws) < 0.5
        areas.append([auc(roc(score, members)).item() for score in (told.solved, -told.excess)])
    # three standard errors of a mean of 20, each with 0.075
    assert np.mean(areas, 0) == pytest.approx([0.5, 0.5], abs=0.051)


def test_a_sum_is_solved_as_least_squares_solve_it(rng):
    """As `lstsq` on the same equations, with one more for each candidate, which says the prior."""
    rows = (
        torch.rand(30, 80, generator=rng, dtype=torch.float64) * 10.0 ** -torch.arange(30)[:, None]
    )
    chosen = (torch.rand(30, generator=rng) < 0.5).double()
    right = chosen @ rows
    whole = np.vstack([rows.T.numpy() / 1e-6, 2 * np.eye(30)])
    wanted = np.concatenate([right.numpy() / 1e-6, 2 * 0.4 * np.ones(30)])
    expected = np.linalg.lstsq(whole, wanted, rcond=None)[0]
    solved = solve_sum(rows, right, 1e-6, prior=0.4)
    np.testing.assert_allclose(solved, expected, atol=1e-5)
    assert solved[:5] == pytest.approx(chosen[:5], abs=1e-3)
    assert solved[10:] == pytest.approx(0.4 * torch.ones(20), abs=1e-3)


def test_few_equations_are_evenly_spaced_over_the_weights(learnt, monkeypatch):
    network, images, members = learnt
    measured = measure(network, images[members])
    squares = torch.cat([flat(part, 1) for part in squared_slopes(network, images, SCALE)])
    fisher = flat(measured.fisher, 0)
    used = (fisher > 1e-31).nonzero().flatten()
    places = used[torch.linspace(0, len(used) - 1, 50).long()]
    monkeypatch.setattr(module, "VALUES", 50 * len(images))
    right = torch.full((50,), float(measured.examples), dtype=torch.float64)
    rows = squares[:, places] / fisher[places]
    expected = solve_sum(rows, right, ROUNDING * measured.examples)
    solved = tell(network, images, measured, SCALE, True).solved
    torch.testing.assert_close(solved, expected, rtol=1e-6, atol=1e-6)


def test_a_network_without_gradients_tells_nothing():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for weight in network.parameters():
        nn.init.zeros_(weight)
    images, nothing = torch.zeros(5, 1, 2, 2), {"w": torch.zeros(15)}
    told = tell(network, images, Measured(nothing, nothing, 2), SCALE, True)
    assert told.solved.tolist() == [0.5] * 5
    assert len(set(told.excess.tolist())) == 1


def test_more_candidates_than_can_be_solved_for_are_refused():
    images = torch.zeros(1, 4).expand(MOST + 1, 4)
    network = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"10,000 candidates at most, got 10,001\. Take fewer"):
        tell(network, images, measure(network, images[:2]), SCALE, True)
