"""Epsilon against closed formulas and an independent computation, and the noise solved for."""

from itertools import product
from math import comb, exp, inf, log, sqrt

import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

from lightning_modules.accountant import LARGEST, Mechanism, default_delta, solve_noise, spend


def of_gaussian(noise, steps, delta):
    """Exact epsilon of a Gaussian mechanism (Balle and Wang 2018, theorem 8): all are drawn."""
    mu = sqrt(steps) / noise

    def excess(epsilon):
        rest = norm.logcdf(-mu / 2 - epsilon / mu)
        return norm.cdf(mu / 2 - epsilon / mu) - exp(epsilon + rest) - delta

    return brentq(excess, 0, 200)


def by_moments(noise, rate, steps, delta):
    """Upper bound by moments of integer order (Mironov et al. 2019, arXiv:1908.10530, 3.3)."""
    best = inf
    for order in range(2, 64):
        terms = [
            log(comb(order, k))
            + (order - k) * log(1 - rate)
            + k * log(rate)
            + (k * k - k) / (2 * noise**2)
            for k in range(order + 1)
        ]
        renyi = steps * logsumexp(terms) / (order - 1)
        best = min(best, renyi + log((order - 1) / order) - (log(delta) + log(order)) / (order - 1))
    return best


@pytest.mark.parametrize(
    ("noise", "steps", "delta"), [(5.0, 100, 1e-3), (20.0, 30, 1e-5), (3.0, 1, 0.01)]
)
def test_without_sampling_epsilon_is_that_of_the_gaussian_mechanism(noise, steps, delta):
    epsilon, accountant = spend(Mechanism(noise, 1.0, delta), steps)
    exact = of_gaussian(noise, steps, delta)
    assert accountant == "PRV"
    assert exact <= epsilon <= exact + 0.03  # of an error that is allowed on either side


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [*product([1.0, 2.0], [0.01, 0.1], [1, 50, 600])]
)
def test_with_sampling_epsilon_is_below_the_bound_by_moments(noise, rate, steps):
    bound = by_moments(noise, rate, steps, 1e-4)
    epsilon, _ = spend(Mechanism(noise, rate, 1e-4), steps)
    assert 0 < epsilon < bound
    if steps == 600:  # many steps are all alike to both
        assert epsilon > 0.6 * bound


def test_a_value_of_opacus_documentation():
    """RDP's in its docstring is 0.336 for 10 and 4 steps of two kinds: fewer steps cost less."""
    first = spend(Mechanism(1.0, 1e-5, 1e-5), 10).epsilon
    second = spend(Mechanism(3.0, 1e-4, 1e-5), 4).epsilon
    assert max(first, second) < 0.336


def test_more_steps_and_less_noise_cost_more():
    costs = [spend(Mechanism(1.0, 0.1, 1e-3), steps).epsilon for steps in (0, 1, 10, 100)]
    assert costs[0] == 0
    assert costs == sorted(set(costs))
    costs = [spend(Mechanism(noise, 0.1, 1e-3), 100).epsilon for noise in (0.5, 1.0, 2.0)]
    assert costs == sorted(set(costs), reverse=True)


def test_an_epsilon_that_protects_nothing_needs_no_gigabytes():
    epsilon, accountant = spend(Mechanism(0.05, 0.1, 1e-3), 300)
    assert epsilon > LARGEST
    assert accountant == "RDP"


@pytest.mark.parametrize("epsilon", [0.5, 8.0, 60.0])
def test_the_noise_meets_the_epsilon_and_hardly_more(epsilon):
    noise = solve_noise(epsilon, 0.1, 1e-3, 300)
    assert len(f"{noise:g}".replace(".", "").lstrip("0")) <= 4
    assert spend(Mechanism(noise, 0.1, 1e-3), 300).epsilon <= epsilon
    assert spend(Mechanism(0.8 * noise, 0.1, 1e-3), 300).epsilon > epsilon


def test_an_epsilon_that_no_noise_meets_is_refused():
    message = (
        r"`model.dp.epsilon` of 0.001 cannot be met in 300 steps at a sampling rate of 0.1 and "
        r"delta 0.001, whatever the noise \(The privacy budget is too low.\). Raise it, or raise "
        "`--model.dp.delta`"
    )
    with pytest.raises(ValueError, match=message):
        solve_noise(0.001, 0.1, 1e-3, 300)


@pytest.mark.parametrize(
    ("members", "delta"), [(2, 0.1), (300, 1e-3), (999, 1e-3), (1000, 1e-4), (25_000, 1e-5)]
)
def test_delta_is_a_power_of_ten_below_one_in_the_members(members, delta):
    assert default_delta(members) == delta < 1 / members
