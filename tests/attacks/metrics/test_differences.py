"""AUC differences against slow loops, corrections by hand, and coverage of the truth."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm, ttest_1samp, ttest_rel
from sklearn.metrics import roc_auc_score

from attacks.metrics.differences import (
    Outcome,
    holm,
    mean_difference,
    paired_differences,
    ratio_of_means,
    variance_of_mean,
)
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Measured, area, tail_rate


def draw(rng, targets, examples=80, shared=0.8, shifts=(1.0, 0.6), difficulty=0.0):
    """Draw scores N(shift x member, 1) of two variants; their noise has correlation `shared`."""
    members = torch.rand(targets, examples, generator=rng).argsort(1) < examples // 2
    common, *own = torch.randn(3, targets, examples, generator=rng)
    noise = (shared**0.5 * common + (1 - shared) ** 0.5 * part for part in own)
    scores = [n + s * members + difficulty for n, s in zip(noise, shifts, strict=True)]
    return dict(zip("ab", scores, strict=True)), members


def compared(scores, members, pairs):
    """Differences in AUC, without a look at the shadows."""
    outcomes = {name: Outcome(area(rows, members)) for name, rows in scores.items()}
    return paired_differences(outcomes, pairs)


@pytest.mark.parametrize(
    ("targets", "shared", "hard"),
    [(3, 0.0, 0.0), (3, 0.8, 2.0), (1, 0.0, 0.0), (1, 0.8, 0.0)],
    ids=["apart", "one-pool", "one-target-apart", "one-target-correlated"],
)
def test_intervals_cover_the_truth(rng, targets, shared, hard):
    """In 95% of 1,000 draws; two standard deviations are 1.4 points.

    In `one-pool`, examples differ in difficulty, the same in all draws, and the truth is that of
    the pool: of a random half, any ordered pair is equally likely a member and a non-member.
    """
    difficulty = hard * torch.randn(80, generator=rng)
    gaps = (difficulty[:, None] - difficulty)[~torch.eye(80, dtype=torch.bool)].numpy()
    true = np.subtract(*(norm.cdf((shift + gaps) / 2**0.5).mean() for shift in (1.0, 0.6)))
    held = disagree = 0
    for _ in range(1000):
        scores, members = draw(rng, targets, shared=shared, difficulty=difficulty)
        (difference,) = compared(scores, members, [("a", "b")])
        held += difference.estimate.low <= true <= difference.estimate.high
        disagree += (difference.p < 0.05) == (
            difference.estimate.low <= 0 <= difference.estimate.high
        )
    assert 930 <= held <= 970
    assert disagree == 0  # so p below 5% is as rare without a difference


def test_several_targets_match_scipy(rng):
    scores, members = draw(rng, 5)
    first, second = (
        [roc_auc_score(*rows) for rows in zip(members, scores[name], strict=True)] for name in "ab"
    )
    (difference,) = compared(scores, members, [("a", "b")])
    expected = ttest_rel(first, second)
    gaps = np.subtract(first, second)
    estimate = gaps.mean(), *expected.confidence_interval(0.95), gaps.std()
    assert difference.estimate == pytest.approx(estimate, abs=1e-9)
    assert difference.p == pytest.approx(expected.pvalue, abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_one_target_matches_the_quadratic_definition(rng, decimals):
    scores, members = draw(rng, 1, examples=60)
    scores = {name: rows.round(decimals=decimals) for name, rows in scores.items()}
    inside, outside = members[0].nonzero().flatten(), (~members[0]).nonzero().flatten()

    def wins(row):
        return np.array([[np.sign(row[i] - row[j]) / 2 + 0.5 for j in outside] for i in inside])

    gaps = np.subtract(*(wins(rows[0].double().numpy()) for rows in scores.values()))
    variance = sum(np.var(gaps.mean(axis), ddof=1) / gaps.shape[1 - axis] for axis in (0, 1))
    (difference,) = compared(scores, members, [("a", "b")])
    margin = norm.ppf(0.975) * variance**0.5
    expected = gaps.mean(), gaps.mean() - margin, gaps.mean() + margin, 0
    assert difference.estimate == pytest.approx(expected, abs=1e-9)
    assert difference.p == pytest.approx(2 * norm.sf(abs(gaps.mean()) / variance**0.5))


@pytest.mark.parametrize("targets", [1, 3])
def test_equal_ranks_do_not_differ(rng, targets):
    scores, members = draw(rng, targets)
    scores = {"a": scores["a"], "b": 2 * scores["a"] - 7}
    (difference,) = compared(scores, members, [("a", "b")])
    assert difference[:5] == ("a", "b", Estimate(0, 0, 0), 1, 1)


@pytest.mark.parametrize("targets", [1, 3])
def test_no_variance_claims_no_certainty(targets):
    """By hand: 20 disjoint pairs agree, so up to 16.8% of all pairs may not; p is 2 x 0.5^20."""
    members = (torch.arange(40) % 2 == 0).expand(targets, -1)
    scores = {"right": members.float(), "wrong": 1 - members.float()}
    scores["perfect"] = members + torch.linspace(0, 0.5, 40)
    pairs = [("right", "wrong"), ("right", "perfect")]
    wrong, perfect = compared(scores, members, pairs)
    other = 1 - 0.025 ** (1 / 20)
    assert wrong.estimate == pytest.approx((1, 1 - 2 * other, 1, 0))
    assert wrong.p == pytest.approx(2 * 0.5**20)
    assert perfect.estimate == pytest.approx((0, -other, other, 0))
    assert perfect.p == 1


@pytest.mark.parametrize("targets", [1, 3])
def test_scores_that_all_tie_do_not_differ(targets):
    """An attack that is always right, or always wrong, tells nothing in either variant."""
    members = (torch.arange(40) % 2 == 0).expand(targets, -1)
    scores = {"a": torch.zeros(targets, 40), "b": torch.ones(targets, 40)}
    for measured in (area, partial(tail_rate, fpr=0.01)):
        outcomes = {name: Outcome(measured(rows, members)) for name, rows in scores.items()}
        (difference,) = paired_differences(outcomes, [("a", "b")])
        assert difference[:5] == ("a", "b", Estimate(0, 0, 0), 1, 1)


def test_targets_with_equal_differences_fall_back_on_examples(rng):
    scores, members = draw(rng, 1)
    (single,) = compared(scores, members, [("a", "b")])
    twice = {name: rows.repeat(2, 1) for name, rows in scores.items()}
    (both,) = compared(twice, members.repeat(2, 1), [("a", "b")])
    assert both[:5] == single[:5]


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1; the third may not be below the second."""
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.4, 0.6]) == [1, 1, 1]
    assert holm([]) == []


def test_all_comparisons_of_a_call_are_corrected(rng):
    scores, members = draw(rng, 4)
    scores["c"] = scores["b"] + torch.randn(4, 80, generator=rng)
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    differences = compared(scores, members, pairs)
    assert [(d.first, d.second) for d in differences] == pairs
    assert [d.p_holm for d in differences] == holm([d.p for d in differences])
    assert differences[1].p == compared(scores, members, pairs[1:2])[0].p_holm


def test_shadows_add_what_all_targets_share():
    """By hand: targets 1, 2 and 3 have variance 1 over targets, a third of it for their mean.

    Two ways to halve the shadows: all targets move by 1, or by -2. Their mean square is 2.5, in
    which no target moves by itself; the freedom is (17/6)^2 / ((1/3)^2 / 2 + 2.5^2 / 2).
    """
    measured = Measured(torch.tensor([1.0, 2.0, 3.0]).double(), torch.zeros(3, 4).double())
    halves = torch.tensor([[1.0], [-2.0]]).double().expand(2, 3)
    variance, shadows, freedom = variance_of_mean(Outcome(measured, halves))
    assert variance == pytest.approx(1 / 3 + 2.5)
    assert shadows == pytest.approx(2.5 / variance)
    assert freedom == pytest.approx(variance**2 / ((1 / 9) / 2 + 2.5**2 / 2))
    # moves of single targets are in the spread over targets already
    alone = torch.tensor([[3.0, -3.0, 0.0]]).double()
    assert variance_of_mean(Outcome(measured, alone)) == pytest.approx((1 / 3, 0, 2))
    alone_unknown = variance_of_mean(Outcome(measured))
    assert alone_unknown[::2] == pytest.approx((1 / 3, 2))
    assert np.isnan(alone_unknown[1])


def test_shadows_that_attack_each_other_are_seen_as_models():
    """By hand: halves differ by 2 x 0.9 and 2 x 0.3, mean square 0.45 above a third; else twice."""
    measured = Measured(torch.tensor([1.0, 2.0, 3.0]).double(), torch.zeros(3, 4).double())
    halves = torch.tensor([[1.9, 1.0, -0.2], [0.3, 0.3, 0.3]]).double()
    variance, shadows, freedom = variance_of_mean(Outcome(measured, halves, round_robin=True))
    assert (variance, freedom) == pytest.approx((0.45, 2))
    assert shadows == pytest.approx(1 - (1 / 3) / 0.45)
    unknown = variance_of_mean(Outcome(measured, None, round_robin=True))
    assert unknown[::2] == pytest.approx((2 / 3, 2))


def test_a_mean_difference_matches_scipy(rng):
    gaps = torch.randn(7, generator=rng).double() / 10
    estimate, p = mean_difference(gaps)
    expected = ttest_1samp(gaps.numpy(), 0)
    low, high = expected.confidence_interval(0.95)
    assert estimate == pytest.approx((gaps.mean().item(), low, high, gaps.numpy().std()))
    assert p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("gaps", [[0.1], [0.1, 0.1, 0.1]], ids=["one", "alike"])
def test_student_needs_targets_that_differ(gaps):
    with pytest.raises(ValueError, match=r"2 targets that differ, got .* `paired_differences`"):
        mean_difference(torch.tensor(gaps).double())


def test_a_ratio_is_rejected_at_5_percent_at_both_ends(rng):
    below = 0.1 + 0.02 * torch.randn(10, generator=rng).double()
    above = 0.4 * below + 0.02 * torch.randn(10, generator=rng).double()
    ratio = ratio_of_means(above, below)
    assert ratio.low < ratio.value < ratio.high
    assert ratio.value == pytest.approx(above.mean().item() / below.mean().item())
    for end in (ratio.low, ratio.high):
        assert ttest_1samp((above - end * below).numpy(), 0).pvalue == pytest.approx(0.05)
    for inside in (0.9 * ratio.low + 0.1 * ratio.high, 0.1 * ratio.low + 0.9 * ratio.high):
        assert ttest_1samp((above - inside * below).numpy(), 0).pvalue > 0.05


def test_a_ratio_to_a_mean_near_zero_is_unknown():
    assert ratio_of_means(torch.tensor([1.0, 2, 3]), torch.tensor([-1.0, 0, 1.5])) is None
