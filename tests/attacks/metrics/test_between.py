"""Experiments against scipy where the shadows add nothing, by hand and by simulation where they do.

In the simulation, an experiment's targets differ by what is theirs, which they keep in another
experiment of the same seed, and by the training; its four blocks of shadows move all targets alike.
"""

from math import isnan

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from scipy.stats import binom, ttest_ind, ttest_ind_from_stats, ttest_rel
from scipy.stats import t as student

from attacks.metrics.between import paired, welch
from attacks.metrics.differences import Outcome
from attacks.metrics.measures import Measured

TESTS = {"paired": paired, "welch": welch}


def outcome(values, *moves):
    """An outcome; each move is what one way to halve the shadows changes, for all targets alike."""
    measured = Measured(torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), 4))
    halves = torch.tensor(moves, dtype=torch.float64)[:, None].expand(-1, len(values))
    return Outcome(measured, halves if moves else None)


@pytest.mark.parametrize("moves", [(0.0, 0.0, 0.0), ()], ids=["none", "unknown"])
@pytest.mark.parametrize("targets", [2, 8, 40])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 0.4])
def test_pairs_match_scipy_where_the_shadows_add_nothing(targets, scale, moves):
    rng = np.random.default_rng(targets)
    first = 0.6 + scale * rng.standard_normal(targets)
    second = 0.9 * first + 0.05 + 0.3 * scale * rng.random(targets)
    estimate, p = paired(outcome(first, *moves), outcome(second, *moves))
    oracle = ttest_rel(first, second)
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    clipped = np.clip(oracle.confidence_interval(), -1, 1)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(clipped), rel=1e-6)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6)


@pytest.mark.parametrize("moves", [(0.0, 0.0, 0.0), ()], ids=["none", "unknown"])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (8, 4), (3, 40)])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 0.4])
def test_welch_matches_scipy_where_the_shadows_add_nothing(n, m, scale, moves):
    rng = np.random.default_rng(n + m)
    first, second = 0.6 + scale * rng.standard_normal(n), 0.58 + 0.3 * scale * rng.random(m)
    estimate, p = welch(outcome(first, *moves), outcome(second, *moves))
    oracle = ttest_ind(first, second, equal_var=False)
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    clipped = np.clip(oracle.confidence_interval(), -1, 1)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(clipped), rel=1e-6)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6)


@pytest.mark.parametrize("unknown", [False, True])
def test_what_the_shadows_add_by_hand(unknown):
    """Differences 0.1, 0.2, 0.3: a variance of 0.01 / 3 over targets, and 0.004 and 0.001 more."""
    first = outcome([0.7, 0.7, 0.9], 0.1, -0.04, 0.02)  # mean square 0.012 / 3
    second = outcome([0.6, 0.5, 0.6], *[] if unknown else [0.001**0.5])
    known = [(0.004, 3)] if unknown else [(0.004, 3), (0.001, 1)]
    parts = [(0.01 / 3, 2), *known]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    estimate, p = paired(first, second)
    assert p == pytest.approx(2 * student.sf(0.2 / variance**0.5, freedom))
    margin = student.ppf(0.975, freedom) * variance**0.5
    assert estimate[:3] == pytest.approx((0.2, 0.2 - margin, 0.2 + margin))
    # Welch's: 0.0133 / 3 and 0.0033 / 3 over targets, each with 2 degrees of freedom
    parts = [(0.04 / 9, 2), (0.01 / 9, 2), *known]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    assert welch(first, second)[1] == pytest.approx(2 * student.sf(0.2 / variance**0.5, freedom))


def test_a_single_target_is_no_certainty():
    spread, alone = outcome([0.58, 0.62, 0.6], 0.0), outcome([0.7], 0.0)
    same, lower = outcome([1.0, 1.0, 1.0], 0.0), outcome([0.9, 0.9, 0.9], 0.0)
    for test, first, second in (
        (welch, alone, spread),
        (welch, spread, alone),
        (welch, same, lower),
        (paired, alone, outcome([0.6], 0.0)),
        (paired, spread, outcome([0.48, 0.52, 0.5], 0.0)),  # all differ by the same
    ):
        estimate, p = test(first, second)
        means = [float(sample.measured.values.mean()) for sample in (first, second)]
        assert estimate.value == pytest.approx(means[0] - means[1])
        assert all(map(isnan, (estimate.low, estimate.high, p)))
    estimate, p = welch(same, spread)  # a spread on one side suffices
    oracle = ttest_ind_from_stats(1, 0, 3, 0.6, 0.02, 3, equal_var=False)
    assert p == pytest.approx(oracle.pvalue)


def experiment(rng, own, shadows):
    """What an attack finds, and how halving the shadows changes it."""
    blocks = 2 * shadows * rng.standard_normal(4)  # their mean varies by `shadows`
    values = 0.6 + own + 0.01 * rng.standard_normal(len(own)) + blocks.mean()
    return outcome(values, *hadamard(4)[1:] @ blocks / 4)  # half the halves' difference


@pytest.mark.parametrize("kind", ["paired", "welch"])
@pytest.mark.parametrize("shadows", [0.0, 0.004, 0.02])
def test_equal_experiments_differ_in_5_percent(kind, shadows):
    """In 1,000 simulations; more than 8% would be found with a probability of 1e-4 if 5% are.

    At 0.02 most of the variance is the shadows', and a test that does not count it finds several
    times as much.
    """
    rng, runs, found, naive = np.random.default_rng(1), 1000, 0, 0
    for _ in range(runs):
        first, second = 0.017 * rng.standard_normal((2, 8))
        pair = (
            experiment(rng, first, shadows),
            experiment(rng, first if kind == "paired" else second, shadows),
        )
        found += TESTS[kind](*pair)[1] < 0.05
        naive += TESTS[kind](*(sample._replace(halves=None) for sample in pair))[1] < 0.05
    assert binom.sf(0.08 * runs, runs, 0.05) < 1e-4
    assert found <= 0.08 * runs
    if shadows == 0.02:
        assert naive > 3 * 0.05 * runs
        assert found > 0.02 * runs


@pytest.mark.parametrize("name", TESTS)
def test_audits_of_shadows_by_each_other_count_twice_where_no_halves_are_known(name):
    """As differences within an audit do: errors are larger by the root of 2."""
    rng = np.random.default_rng(0)
    once = [outcome(0.6 + 0.02 * rng.standard_normal(8)) for _ in range(2)]
    twice = [known._replace(round_robin=True) for known in once]
    (before, p), (after, q) = TESTS[name](*once), TESTS[name](*twice)
    assert after.value == before.value
    assert after.high - after.low == pytest.approx(2**0.5 * (before.high - before.low))
    assert q > p
