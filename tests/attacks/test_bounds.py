"""Lower bounds on epsilon of attacks that know nothing, and of attacks whose truth is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import beta, binom

from attacks.bounds import Bounds, _bound
from attacks.game import Proven
from attacks.metrics.epsilon import EpsilonBound, largest_epsilon
from attacks.strongest import HeldOut, choose_for_tests


@pytest.mark.parametrize(("examples", "guesses"), [(160, 16), (150, 14), (199, 18), (12, 2)])
@pytest.mark.parametrize(("targets", "testing"), [(2, 1), (5, 3)])
def test_guesses_are_a_tenth_and_even(rng, examples, guesses, targets, testing):
    members = (torch.arange(examples) % 2 == 0).expand(targets, -1)
    bounds = _bound(HeldOut(torch.randn(targets, examples, generator=rng), members))
    assert bounds.guesses == testing * guesses


@pytest.mark.parametrize("targets", [1, 4])
def test_without_a_leak_at_most_5_percent_of_bounds_exceed_0(targets):
    """4 attacks that know nothing, correlated as attacks are.

    If 5% do, more than 24 of 200 exceed 0 with a probability of 3e-5.
    """
    rng, examples, runs = torch.Generator().manual_seed(0), 100, 200
    exceeding = np.zeros(2)
    for _ in range(runs):
        members = torch.rand(targets, examples, generator=rng).argsort(1) < examples // 2
        common = torch.randn(1, targets, examples, generator=rng)
        scores = common + torch.randn(4, targets, examples, generator=rng)
        bounds = _bound(choose_for_tests(list(scores), members))
        exceeding += bounds.tested.epsilon > 0, bounds.one_run > 0
    assert binom.sf(24, runs, 0.05) < 1e-4
    assert (exceeding <= 24).all()


@pytest.mark.parametrize("targets", [1, 4])
def test_bounds_of_randomized_response(targets):
    """Each of 4 attacks sees another answer, flipped with chance 1 / (1 + e^epsilon).

    Correct guesses are then binomial, which gives the mean of the one-run bound: a mean of 200 is
    5 standard errors away from it with a probability of 6e-7.
    """
    rng, examples, runs, epsilon = torch.Generator().manual_seed(0), 200, 200, 2.0
    truth, bounds = expit(epsilon), []
    for _ in range(runs):
        members = torch.rand(targets, examples, generator=rng).argsort(1) < examples // 2
        lie = torch.rand(4, targets, examples, generator=rng) > truth
        scores = (members ^ lie) + 1e-3 * torch.randn(lie.shape, generator=rng)
        bounds.append(_bound(choose_for_tests(list(scores), members)))
    guesses = 10 if targets == 1 else 40
    assert {bound.guesses for bound in bounds} == {guesses}
    one_run = np.array([bound.one_run for bound in bounds])
    assert max((one_run > epsilon).sum(), sum(b.tested.epsilon > epsilon for b in bounds)) <= 24
    right = np.arange(1, guesses + 1)
    limits = logit(beta.ppf(0.05, right, guesses - right + 1)).clip(0)
    expected = (binom.pmf(right, guesses, truth) * limits).sum()
    assert one_run.mean() == pytest.approx(expected, abs=5 * one_run.std() / runs**0.5)


def test_reach_is_at_the_delta_of_the_proof():
    tested = EpsilonBound(1.0, 0.5, 0.25, 0.05, 80, 90)
    for proven, delta in ((None, 0.0), (Proven(4.0, 1e-3), 1e-3)):
        bounds = Bounds(tested, 0.5, 16, proven)
        assert bounds.reach == largest_epsilon(80, 90, 16, delta)


@pytest.mark.parametrize("targets", [1, 4])
def test_scores_that_tell_members_from_non_members_reach_all_that_an_audit_can(targets):
    rng = torch.Generator().manual_seed(0)
    members = torch.rand(targets, 200, generator=rng).argsort(1) < 100
    found = _bound(choose_for_tests([members.double()], members))
    assert found.lower == pytest.approx(found.reach)
