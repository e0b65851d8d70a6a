"""Intervals against their definitions, literal resampling, and their coverage of the truth."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm, sem, t
from sklearn.metrics import roc_auc_score

from attacks.metrics import intervals
from attacks.metrics.intervals import (
    _draw,
    clopper_pearson,
    delong,
    mean_accuracy,
    mean_auc,
    summarise,
)
from attacks.metrics.roc import auc, balanced_accuracy, roc, tpr_at

METRICS = {
    "auc": auc,
    "balanced_accuracy": balanced_accuracy,
    "tpr_1pct": lambda curve: tpr_at(curve, 0.01),
    "tpr_01pct": lambda curve: tpr_at(curve, 0.001),
}


def draw(rng, targets, examples, shift=1.0, shared=0.0):
    """Draw scores N(shift x member, 1); `shared` of the noise is common to all targets."""
    members = torch.rand(targets, examples, generator=rng) < 0.5
    noise = torch.randn(targets, examples, generator=rng) * (1 - shared**2) ** 0.5
    return noise + shared * torch.randn(examples, generator=rng) + shift * members, members


def student_margin(values):
    """Half of SciPy's own 95% interval of a mean."""
    low, high = t.interval(0.95, len(values) - 1, np.mean(values), sem(values))
    return (high - low) / 2


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_delong_matches_the_quadratic_definition(rng, decimals):
    scores, members = (rows[0] for rows in draw(rng, 1, 90))
    scores = scores.round(decimals=decimals)
    inside, outside = scores[members].tolist(), scores[~members].tolist()
    wins = np.array([[(x > y) + (x == y) / 2 for y in outside] for x in inside])
    variance = np.var(wins.mean(1), ddof=1) / len(inside) + np.var(wins.mean(0), ddof=1) / len(
        outside
    )
    estimate = delong(scores, members)
    assert estimate.value == pytest.approx(roc_auc_score(members, scores), abs=1e-12)
    margin = norm.ppf(0.975) * np.sqrt(variance)
    expected = estimate.value - margin, estimate.value + margin
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_delong_at_the_edges():
    members = torch.arange(30) < 10
    perfect = delong(members.float(), members)
    assert perfect == clopper_pearson(10, 10)  # 10 disjoint pairs, all won
    assert delong(-members.float(), members) == clopper_pearson(0, 10)
    assert delong(torch.zeros(30), members)[:3] == (0.5, 0.5, 0.5)  # constant scores
    with pytest.raises(ValueError, match="2 members and 2 non-members, got 1 and 29"):
        delong(torch.arange(30.0), torch.arange(30) == 3)


def test_delong_covers_the_truth(rng):
    held = 0
    for _ in range(400):
        scores, members = draw(rng, 1, 120)
        _, low, high, _ = delong(scores[0], members[0])
        held += low <= norm.cdf(1 / np.sqrt(2)) <= high
    assert 0.92 <= held / 400 <= 0.98


def test_clopper_pearson_matches_beta_quantiles():
    for successes, trials in [(1, 10), (17, 40), (999, 1000)]:
        low = beta.ppf(0.025, successes, trials - successes + 1)
        high = beta.ppf(0.975, successes + 1, trials - successes)
        assert clopper_pearson(successes, trials)[:3] == pytest.approx(
            (successes / trials, low, high), abs=1e-9
        )
    assert clopper_pearson(0, 20)[:3] == pytest.approx((0, 0, 1 - 0.025 ** (1 / 20)))  # by hand


def test_several_targets_match_literal_resampling(rng):
    scores, members = draw(rng, 3, 60)
    summary = summarise(scores, members, resamples=50, seed=4)
    draws = _draw(3, 60, 50, 4)
    for name, metric in METRICS.items():
        own = [metric(roc(s, m)).item() for s, m in zip(scores, members, strict=True)]
        means = []
        for held, weights in zip(draws.targets, draws.examples, strict=True):
            copies = torch.arange(60).repeat_interleave(weights.int())
            assert len(copies) == 60
            chosen = torch.arange(3).repeat_interleave(held)
            means.append(
                np.mean([metric(roc(scores[t, copies], members[t, copies])).item() for t in chosen])
            )
        value, margin = np.mean(own), student_margin(own)
        low, high = 2 * value - np.quantile(means, [0.975, 0.025])
        low, high = max(0, min(low, value - margin)), min(1, max(high, value + margin))
        expected = value, low, high, np.std(own)
        assert getattr(summary, name) == pytest.approx(expected, abs=1e-12)


def test_a_single_target_is_summarised_by_exact_intervals(rng):
    scores, members = draw(rng, 1, 400)
    summary, curve, inside = (
        summarise(scores, members),
        roc(scores[0], members[0]),
        int(members.sum()),
    )
    assert summary.auc == delong(scores[0], members[0])
    for name in ("tpr_1pct", "tpr_01pct"):
        caught = METRICS[name](curve).item() * inside
        assert getattr(summary, name) == clopper_pearson(round(caught), inside)
    assert summary.balanced_accuracy.value == pytest.approx(balanced_accuracy(curve).item())
    accuracy = summary.balanced_accuracy
    assert accuracy.low < accuracy.value < accuracy.high


def test_a_summary_counts_the_fewest_false_positives_of_any_target():
    """3,000 and 2,500 non-members: 0.1% allow 3 and 2, unless ties forbid them."""
    members = torch.ones(2, 5500, dtype=torch.bool)
    members[0, :3000], members[1, :2500] = False, False
    scores = torch.arange(5500.0).repeat(2, 1)
    summary = summarise(scores, members, resamples=2)
    assert (summary.targets, summary.non_members) == (2, 2500)
    assert (summary.false_positives_1pct, summary.false_positives_01pct) == (25, 2)
    scores[1, 2400:2500] = 2450.0
    tied = summarise(scores, members, resamples=2)
    assert (tied.false_positives_1pct, tied.false_positives_01pct) == (0, 0)


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_bootstrap_covers_the_truth(rng, shared):
    """In 95% or more for the AUC; the other two are biased, and plain percentiles would fail."""
    truth = {
        "auc": norm.cdf(1 / np.sqrt(2)),
        "balanced_accuracy": norm.cdf(0.5),
        "tpr_1pct": norm.cdf(norm.ppf(0.01) + 1),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
        summary = summarise(*draw(rng, 4, 400, shared=shared), resamples=100)
        for name, value in truth.items():
            _, low, high, _ = getattr(summary, name)
            held[name] += low <= value <= high
    assert held["auc"] >= 95
    assert min(held.values()) >= 90


def test_the_interval_covers_the_truth_of_targets_that_differ(rng):
    """For two targets whose shifts have a std of 0.2, a bootstrap alone covers the AUC in 65%."""
    truth, held = norm.cdf(1 / np.sqrt(2 + 0.2**2)), 0
    for _ in range(60):
        members = torch.rand(2, 1000, generator=rng) < 0.5
        shift = 1 + 0.2 * torch.randn(2, 1, generator=rng)
        scores = torch.randn(2, 1000, generator=rng) + shift * members
        _, low, high, _ = summarise(scores, members, resamples=50).auc
        held += low <= truth <= high
    assert held >= 54  # 95% of 60 is 57; fewer than 54 come in 2% of runs


def test_no_leak_gives_half_within_the_interval(rng):
    scores, members = draw(rng, 5, 1000, shift=0.0)
    summary = summarise(scores, members)
    assert summary.auc.low <= 0.5 <= summary.auc.high
    assert summary.tpr_1pct.low <= 0.01 <= summary.tpr_1pct.high


def test_resamples_depend_on_shape_and_seed_alone(rng):
    scores, members = draw(rng, 12, 200, shared=0.7)  # with so many, resampling decides the width
    summary = summarise(scores, members)
    assert summarise(2 * scores.double() - 7, members) == summary  # same ranks, so the same digits
    torch.manual_seed(1)
    assert summarise(scores, members) == summary
    assert summarise(scores, members, seed=1).auc.low != summary.auc.low


def test_a_tiny_pool_survives_resamples_without_members():
    summary = summarise(torch.arange(8.0).repeat(2, 1), torch.tensor([[0, 1] * 4] * 2).bool())
    assert 0 <= summary.auc.low <= summary.auc.value <= summary.auc.high <= 1


def test_resamples_are_turned_into_curves_in_chunks(rng, monkeypatch):
    sizes = []

    def record(scores, members, weights=None):
        sizes.append(1 if weights is None else weights.numel())
        return roc(scores, members, weights)

    monkeypatch.setattr(intervals, "roc", record)
    monkeypatch.setattr(intervals, "_CHUNK", 1000)
    scores, members = draw(rng, 2, 300)
    chunked = summarise(scores, members, resamples=20)
    assert max(sizes) <= 1000
    monkeypatch.undo()
    assert summarise(scores, members, resamples=20) == chunked


def test_accuracy_matches_literal_resampling(rng):
    correct = torch.rand(3, 70, generator=rng) < 0.8
    estimate, draws, means = mean_accuracy(correct, resamples=40, seed=2), _draw(3, 70, 40, 2), []
    for held, weights in zip(draws.targets, draws.examples, strict=True):
        resampled = correct.repeat_interleave(held, 0).repeat_interleave(weights.int(), 1)
        means.append(resampled.double().mean().item())
    value = correct.double().mean().item()
    own = correct.double().mean(1).tolist()
    low, high = 2 * value - np.quantile(means, [0.975, 0.025])
    low, high = min(low, value - student_margin(own)), max(high, value + student_margin(own))
    assert estimate == pytest.approx((value, low, min(high, 1), np.std(own)), abs=1e-6)
    assert mean_accuracy(correct[:1]) == clopper_pearson(int(correct[0].sum()), 70)


def test_scores_that_are_not_numbers_are_refused():
    members = torch.arange(20) % 2 == 0
    with pytest.raises(ValueError, match="20 NaN of 20"):
        summarise(torch.full((1, 20), torch.nan), members[None])
    with pytest.raises(ValueError, match="got 0 members of 20"):
        summarise(torch.zeros(1, 20), torch.zeros(1, 20, dtype=torch.bool))


def test_equal_values_claim_no_certainty():
    """No target finds a member before the first non-member: 0 of 100, at most 3.6% (exact)."""
    members = (torch.arange(200) % 2 == 0).expand(3, 200)
    scores = torch.where(members, 0.0, 1.0) + torch.linspace(0, 0.5, 200)
    summary = summarise(scores, members)
    assert summary.tpr_01pct[:3] == pytest.approx((0, 0, 0.0362), abs=1e-4)
    always = mean_accuracy(torch.ones(3, 100, dtype=torch.bool))
    assert always[:3] == pytest.approx((1, 0.9638, 1), abs=1e-4)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_mean_auc_matches_scipy(rng, decimals):
    """Targets have their own examples, in unequal numbers."""
    curves = []
    for count in (30, 75, 200, 12):
        members = torch.rand(count, generator=rng) < 0.4
        scores = (torch.randn(count, generator=rng) + members).round(decimals=decimals)
        curves.append((scores, members))
    estimate = mean_auc(curves)
    own = [roc_auc_score(members, scores) for scores, members in curves]
    value, margin = np.mean(own), student_margin(own)
    assert estimate == pytest.approx((value, value - margin, min(1, value + margin), np.std(own)))
    reordered = [(s.flip(0), m.flip(0)) for s, m in curves[::-1]]
    assert mean_auc(reordered) == pytest.approx(estimate)
    inverted = mean_auc([(-s, m) for s, m in curves])
    assert inverted.value == pytest.approx(1 - value)


def test_mean_auc_of_a_single_target_is_delongs(rng):
    scores, members = draw(rng, 1, 90)
    assert mean_auc([(scores[0], members[0])]) == delong(scores[0], members[0])


def test_mean_auc_stays_a_share(rng):
    """Student's t over 1 and 0.5 would reach from -2.4 to 3.9."""
    members = torch.tensor([True, True, False, False])
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert mean_auc([(row, members) for row in scores]) == pytest.approx((0.75, 0, 1, 0.25))


def test_mean_auc_covers_the_truth(rng):
    held = 0
    for _ in range(300):
        scores, members = draw(rng, 4, 120)
        _, low, high, _ = mean_auc(list(zip(scores, members, strict=True)))
        held += low <= norm.cdf(1 / np.sqrt(2)) <= high
    assert 0.92 <= held / 300 <= 0.98


def test_mean_auc_refuses_nan_scores_and_a_missing_side():
    members = torch.arange(8) % 2 == 0
    with pytest.raises(ValueError, match="8 NaN of 8"):
        mean_auc([(torch.full((8,), torch.nan), members), (torch.arange(8.0), members)])
    with pytest.raises(ValueError, match="got 8 members of 8"):
        mean_auc([(torch.arange(8.0), members), (torch.arange(8.0), members | True)])


def test_equal_targets_claim_no_certainty():
    """DeLong's interval of a single target stands in; at an AUC of 1 it is exact, over pairs."""
    scores, members = torch.arange(20.0), torch.arange(20) >= 10
    estimate = mean_auc([(scores, members)] * 3)
    assert estimate == delong(scores, members)
    assert estimate.low < 0.8
