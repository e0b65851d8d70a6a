import pytest
import torch

from continual.top_k import (
    count_active,
    decayed_k,
    inhibition,
    masked,
    switch_gains,
    switched,
)


def slow_switch(active, k, counts, switch):
    """The formulas of the paper, one example and one neuron at a time."""
    rows = []
    for row in active.tolist():
        amount = sorted(row, reverse=True)[k]
        hidden = []
        for value, count in zip(row, counts.tolist(), strict=True):
            gain = min(1.0, max(-1.0, -1 + 2 * count / switch))
            hidden.append(max(0.0, value - gain * amount))
        rows.append(hidden)
    return torch.tensor(rows, dtype=active.dtype)


@pytest.fixture
def active(rng):
    """Activations with equal ones, an example that is zero, and one with two positive neurons."""
    values = torch.randn(9, 12, generator=rng, dtype=torch.float64).relu()
    values[0] = 0
    values[1, 2:] = 0
    values[1, :2] = torch.tensor([0.5, 2.0])
    values[2, :6] = 1.5
    return values


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("most", [0, 5, 20, 60])
def test_the_switch_matches_a_slow_loop(rng, active, k, most):
    counts = torch.randint(0, most + 1, (12,), generator=rng)
    gains = switch_gains(counts, 20.0)
    expected = slow_switch(active, k, counts, 20.0)
    torch.testing.assert_close(switched(active, k, gains.double()), expected, rtol=1e-6, atol=1e-6)


def test_gains_worked_by_hand():
    counts = torch.tensor([0, 5, 10, 15, 20, 10**9])
    assert switch_gains(counts, 20.0).tolist() == [-1, -0.5, 0, 0.5, 1, 1]


def test_a_switch_that_has_finished_leaves_exactly_k(rng):
    active = torch.rand(50, 40, generator=rng) + 0.1
    hidden = switched(active, 7, torch.ones(40))
    assert (hidden > 0).sum(1).eq(7).all()
    assert torch.equal(hidden > 0, masked(active, 7) > 0)
    assert (switched(active, 7, -torch.ones(40)) > 0).all()


def test_nothing_is_cut_where_fewer_are_positive(active):
    assert torch.equal(switched(active, 3, torch.ones(12))[:2], active[:2])


def test_no_gradient_flows_through_the_inhibition(rng):
    active = torch.rand(4, 9, generator=rng).requires_grad_()
    hidden = switched(active, 2, torch.ones(9))
    hidden.sum().backward()
    assert torch.equal(active.grad, (hidden > 0).float())


@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_mask_matches_a_slow_loop(active, k):
    for row, kept in zip(active.tolist(), masked(active, k).tolist(), strict=True):
        least = sorted(row, reverse=True)[k - 1]
        assert kept == [value if value >= least else 0.0 for value in row]


def test_k_falls_along_a_line_and_stays():
    assert [decayed_k(epoch, 4, 10, 100) for epoch in range(7)] == [100, 77, 55, 32, 10, 10, 10]
    assert decayed_k(0, 0, 10, 100) == 10


def test_counts_match_a_slow_loop(active):
    expected = [sum(value > 0 for value in column) for column in active.T.tolist()]
    assert count_active(active).tolist() == expected


def test_k_that_the_layer_does_not_have_is_refused():
    active = torch.ones(2, 10)
    for k in (0, 10):
        with pytest.raises(ValueError, match=rf"1 to 9 in a layer of 10 .* got {k}\. Lower it"):
            inhibition(active, k)
    with pytest.raises(ValueError, match=r"`k` must be 1 to 10, .* got 11\. Lower it"):
        masked(active, 11)
