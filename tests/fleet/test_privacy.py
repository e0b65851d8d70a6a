"""Noise and epsilon are those of the half of the pool that costs more."""

import pytest

from fleet.privacy import mechanism, settle
from lightning_modules.accountant import Mechanism, spend
from lightning_modules.options import DpOptions


@pytest.mark.parametrize(
    ("pool", "batch_size", "worst"),
    [
        (60, 30, (30, 10)),  # all of 30 members in each of 10 steps
        (61, 30, (31, 20)),  # of 31 members nearly all, but twice as often
        (61, 20, (30, 20)),  # 30 or 31 members in as many steps
    ],
)
def test_epsilon_is_that_of_the_half_that_costs_more(pool, batch_size, worst):
    members, steps = worst
    rate = batch_size / members
    settled, line = settle(DpOptions(noise=8.0), pool, batch_size, 10)
    assert settled == DpOptions(noise=8.0, delta=0.01)
    epsilon = spend(Mechanism(8.0, rate, 0.01), steps).epsilon
    assert line == (
        f"DP-SGD: noise 8, clip 1, sampling rate {rate:.3g}, {steps} steps: epsilon {epsilon:.3g} "
        "at delta 0.01 (PRV)."
    )


def test_the_noise_suffices_for_both_halves():
    settled, _ = settle(DpOptions(epsilon=2.0, clip=0.5), 61, 30, 10)
    assert settled.clip == 0.5
    assert settled.epsilon is None
    spent = [spend(mechanism(settled, half, 30), steps) for half, steps in ((30, 10), (31, 20))]
    assert spent[0].epsilon < spent[1].epsilon <= 2


def test_a_batch_larger_than_the_smaller_half_is_refused():
    settle(DpOptions(noise=1.0), 61, 30, 1)
    message = "`data.batch_size` must be at most the 30 examples .* with `--model.dp`, got 31: each"
    with pytest.raises(ValueError, match=message):
        settle(DpOptions(noise=1.0), 61, 31, 1)


def test_options_that_are_not_settled_have_no_mechanism():
    assert mechanism(DpOptions(noise=1.5, delta=1e-3), 40, 10) == Mechanism(1.5, 0.25, 1e-3)
    with pytest.raises(ValueError, match=r"`dp` must have a noise and a delta, got .* Call"):
        mechanism(DpOptions(epsilon=8.0), 40, 10)
