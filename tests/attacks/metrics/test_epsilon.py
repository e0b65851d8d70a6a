"""Bounds on epsilon against limits by hand, the paper's loop, and how often they exceed it."""

import math

import pytest
import torch
from scipy.special import logit
from scipy.stats import beta, binom, binomtest

from attacks.metrics.epsilon import epsilon_bound, largest_epsilon, one_run_epsilon


def respond(rng, epsilon, shape, delta=0.0, halves=False):
    """Answer with the membership, flipped with chance 1 / (1 + e^epsilon), and tiny noise.

    With chance `delta` the answer is the truth, with a score ten times as large.
    """
    members = torch.rand(shape, generator=rng)
    members = members.argsort(-1) < shape[-1] // 2 if halves else members < 0.5
    lie = torch.rand(shape, generator=rng) < 1 / (1 + math.exp(epsilon))
    shouted = torch.rand(shape, generator=rng) < delta
    scores = torch.where(shouted, 10 * (2.0 * members - 1), (members ^ lie).float())
    return scores + 1e-3 * torch.randn(shape, generator=rng), members


def rarely_exceed(bounds, epsilon):
    """At most 5% of 300 bounds may exceed epsilon; at exactly 5%, 0.5% of samples exceed 25."""
    bounds = torch.tensor(bounds)
    return len(bounds) == 300 and (bounds > epsilon).sum() <= 25 and bounds.mean() >= epsilon / 2


@pytest.mark.parametrize(
    ("epsilon", "delta", "halves"),
    [(0.0, 0, False), (0.0, 0, True), (1.0, 0, True), (1.0, 1e-4, False), (3.0, 0, False)],
)
def test_one_run_rarely_exceeds_the_truth(rng, epsilon, delta, halves):
    runs = [respond(rng, epsilon, (1, 400), delta, halves) for _ in range(300)]
    bounds = [one_run_epsilon(*run, guesses=300, delta=float(delta)) for run in runs]
    assert rarely_exceed(bounds, epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_bound_over_targets_rarely_exceeds_the_truth(rng, epsilon):
    bounds = [epsilon_bound(*respond(rng, epsilon, (4, 300))).epsilon for _ in range(300)]
    assert rarely_exceed(bounds, epsilon)


def test_delta_pays_for_rare_disclosure(rng):
    """With 1 in 20 examples disclosed, epsilon is 0.5 at delta 0.05 and far larger at delta 0."""
    runs = [respond(rng, 0.5, (4, 800), delta=0.05) for _ in range(100)]
    at_none, at_true = (
        torch.tensor([epsilon_bound(*run, delta=delta).epsilon for run in runs])
        for delta in (0.0, 0.05)
    )
    assert (at_true > 0.5).sum() <= 5
    assert at_true.mean() >= 0.25
    assert (at_none > 0.5).sum() >= 90


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0), (0.5, 0), (1.0, 1e-5)])
def test_one_run_over_targets_rarely_exceeds_the_truth(rng, epsilon, delta):
    runs = [respond(rng, epsilon, (5, 100), delta, halves=True) for _ in range(300)]
    bounds = [one_run_epsilon(*run, guesses=80, delta=float(delta)) for run in runs]
    assert rarely_exceed(bounds, epsilon)


def p_value_of_the_paper(examples, guesses, right, epsilon, delta):
    """Follow the loop of Appendix D."""
    chance, alpha, total = 1 / (1 + math.exp(-epsilon)), 0.0, 0.0
    for short in range(1, right + 1):
        total += binom.pmf(right - short, guesses, chance)
        alpha = max(alpha, total / short)
    return binom.sf(right - 1, guesses, chance) + 2 * alpha * delta * examples


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("targets", [1, 3])
def test_one_run_matches_the_paper(rng, targets, delta):
    """Several targets are one run with the examples and the guesses of all."""
    scores, members = respond(rng, 2.0, (targets, 100))
    right, total = 0, 80 * targets
    for row, inside in zip(scores, members, strict=True):
        order = row.argsort()
        right += int((~inside[order[:40]]).sum() + inside[order[60:]].sum())
    bound = one_run_epsilon(scores, members, 80, delta, confidence=0.9)
    assert p_value_of_the_paper(100 * targets, total, right, bound - 1e-6, delta) < 0.1
    assert p_value_of_the_paper(100 * targets, total, right, bound + 1e-6, delta) > 0.1
    if not delta:
        assert bound == pytest.approx(logit(beta.ppf(0.1, right, total - right + 1)), abs=1e-9)


def test_one_run_by_hand():
    members = (torch.arange(40) % 2 == 0).expand(1, -1)
    always = 0.05 ** (1 / 20)  # chance at which 20 of 20 are right in 5%
    perfect = one_run_epsilon(members.float(), members, 20)
    assert perfect == pytest.approx(math.log(always / (1 - always)))
    assert one_run_epsilon(-members.float(), members, 20) == 0
    assert one_run_epsilon(members.float(), members, 20, delta=0.5) == 0
    both = torch.stack([members[0].float(), 100 - members[0].float()])  # all right, and all wrong
    assert one_run_epsilon(both, members.expand(2, -1), 20) == 0
    always = 0.05 ** (1 / 60)  # scores of targets need not be comparable
    scaled = members.float() * torch.tensor([[1.0], [10.0], [1e-6]])
    assert one_run_epsilon(scaled, members.expand(3, -1), 20) == pytest.approx(logit(always))


def test_ties_do_not_betray_the_order_of_the_examples():
    members = torch.arange(2000) >= 1000
    assert one_run_epsilon(torch.zeros(1, 2000), members[None], 1000) < 0.1
    assert epsilon_bound(torch.zeros(2, 2000), members.repeat(2, 1)).epsilon == 0


def test_bound_over_targets_by_hand():
    """20 of 20 members and 0 of 30 non-members at the threshold; exact limits at 2.5% each."""
    members = (torch.arange(50) < 20).repeat(3, 1)
    bound = epsilon_bound(members.float(), members)
    tpr, fpr = 0.025 ** (1 / 40), 1 - 0.025 ** (1 / 60)
    assert bound.epsilon == pytest.approx(max(math.log(tpr / fpr), math.log((1 - fpr) / (1 - tpr))))
    assert bound[1:] == (1, 1, 0, 40, 60)  # of the two targets that test


def test_bound_over_targets_matches_scipy(rng):
    """The threshold is the best of the first target alone, by SciPy's own exact intervals."""
    scores, members = respond(rng, 2.0, (2, 60))
    scores = (5 * scores + torch.randn(2, 60, generator=rng)).round()

    def bound(target, threshold):
        inside, outside = scores[target][members[target]], scores[target][~members[target]]
        limits = [
            binomtest(int((side >= threshold).sum()), len(side)).proportion_ci(0.9, "exact")
            for side in (inside, outside)
        ]
        tpr, fpr = limits[0].low, limits[1].high
        ratios = (tpr - 0.01) / fpr, (1 - fpr - 0.01) / (1 - tpr) if tpr < 1 else 0
        return math.log(max(*ratios, 1))

    threshold = max(scores[0].unique().tolist(), key=lambda at: bound(0, at))
    result = epsilon_bound(scores, members, delta=0.01, confidence=0.9)
    assert result.threshold == threshold
    assert result.epsilon == pytest.approx(bound(1, threshold))
    assert result.tpr == pytest.approx((scores[1][members[1]] >= threshold).double().mean())
    assert result.fpr == pytest.approx((scores[1][~members[1]] >= threshold).double().mean())


def test_examples_below_the_threshold_count_as_those_above(rng):
    scores, members = respond(rng, 2.0, (4, 200))
    scores = scores.round() + (torch.rand(4, 200, generator=rng) < 0.2)
    bound, mirrored = epsilon_bound(scores, members), epsilon_bound(-scores, ~members)
    assert bound.epsilon == pytest.approx(mirrored.epsilon) != 0
    assert (bound.tpr, bound.fpr) == pytest.approx((1 - mirrored.fpr, 1 - mirrored.tpr))


@pytest.mark.parametrize("delta", [0.0, 1e-6])
@pytest.mark.parametrize(("targets", "guesses"), [(2, 300), (2, 4), (8, 300)])
def test_no_audit_finds_more_than_a_perfect_attack(rng, targets, guesses, delta):
    """As if the scores told members from non-members, for many targets and guesses or few."""
    members = torch.rand(targets, 300, generator=rng).argsort(1) < 150
    half = targets // 2
    tested = epsilon_bound(members.double(), members, delta).epsilon
    one_run = one_run_epsilon(members.double()[half:], members[half:], guesses, delta)
    sides = 150 * half, 150 * half
    largest = largest_epsilon(*sides, guesses * half, delta)
    assert largest == pytest.approx(max(tested, one_run), abs=1e-9)
    assert (one_run > tested) == (guesses == 300)  # both cases are here


def test_the_largest_bound_of_four_tested_targets():
    """2,500 members and non-members each: about 7.9, whatever is proven."""
    missed = 0.025 ** (1 / 10_000)
    assert largest_epsilon(10_000, 10_000, 2000) == pytest.approx(math.log(missed / (1 - missed)))
    assert largest_epsilon(10_000, 10_000, 2000) == pytest.approx(7.9, abs=0.05)


def test_arguments_without_a_bound_are_refused(rng):
    scores, members = respond(rng, 1.0, (2, 40))
    with pytest.raises(ValueError, match=r"at least 2 are needed, got 1. Train more, or use `one_"):
        epsilon_bound(scores[:1], members[:1])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        epsilon_bound(scores, members, confidence=95.0)
    for guesses in (0, 7, 42):
        with pytest.raises(ValueError, match=rf"must be even, 2 to 40 \(all\), got {guesses}"):
            one_run_epsilon(scores, members, guesses)
    with pytest.raises(ValueError, match=r"got 80 NaN\."):
        one_run_epsilon(scores * torch.nan, members, 10)
    with pytest.raises(ValueError, match="got 40 NaN of 40"):
        epsilon_bound(torch.stack([scores[0], scores[1] * torch.nan]), members)
