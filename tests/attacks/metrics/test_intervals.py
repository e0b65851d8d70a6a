"""Intervals against their definitions and their coverage of the truth."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm, sem, t
from sklearn.metrics import roc_auc_score

from attacks.metrics.intervals import (
    clopper_pearson,
    delong,
    mean_accuracy,
    mean_auc,
    summarise,
    tail_interval,
)
from attacks.metrics.measures import RATES, tail_rate
from attacks.metrics.roc import roc


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


def test_several_targets_and_examples_by_the_slow_loop(rng):
    """Cells, targets and examples as clusters, written out."""
    correct = torch.rand(3, 70, generator=rng) < torch.tensor([[0.9], [0.8], [0.6]])
    estimate = mean_accuracy(correct)
    own = correct.double().mean(1).tolist()
    deviations = (correct.double() - torch.tensor(own)[:, None]).numpy() / np.sqrt(70 * 69)
    cells = sum(x**2 for x in deviations.flatten()) / 9
    examples = sum((sum(column) / 3) ** 2 for column in deviations.T)
    z = norm.ppf(0.975) ** 2
    over_targets = max(student_margin(own) ** 2, z * cells)
    margin = np.sqrt(over_targets + z * max(examples - cells, 0))
    value = np.mean(own)
    expected = value, value - margin, min(1, value + margin), np.std(own)
    assert estimate == pytest.approx(expected, abs=1e-9)
    assert mean_accuracy(correct[:1]) == clopper_pearson(int(correct[0].sum()), 70)


def test_a_single_target_is_summarised_over_its_examples(rng):
    scores, members = draw(rng, 1, 400)
    summary = summarise(scores, members)
    assert summary.auc == delong(scores[0], members[0])
    for metric, fpr in RATES.items():
        low, high = tail_interval(scores[members], scores[~members], fpr)
        value = tail_rate(scores, members, fpr).values.item()
        assert getattr(summary, metric)[:3] == (value, min(low, value), max(high, value))
    accuracy = summary.balanced_accuracy
    assert accuracy.low < accuracy.value < accuracy.high
    wider = summarise(scores, members, confidence=0.99)
    for metric in ("auc", "balanced_accuracy", *RATES):
        narrow, wide = getattr(summary, metric), getattr(wider, metric)
        assert wide.low <= narrow.low <= narrow.high <= wide.high
        assert wide.high - wide.low > narrow.high - narrow.low


def test_a_summary_counts_the_false_positives_of_all_targets():
    """3,000 and 2,500 non-members: 1% of 5,500 are 55, 0.1% are 5."""
    members = torch.ones(2, 5500, dtype=torch.bool)
    members[0, :3000], members[1, :2500] = False, False
    summary = summarise(torch.arange(5500.0).repeat(2, 1), members)
    assert (summary.targets, summary.non_members) == (2, 2500)
    assert (summary.false_positives_1pct, summary.false_positives_01pct) == (55, 5)


@pytest.mark.parametrize(("fpr", "examples"), [(0.01, 2000), (0.001, 2000), (0.001, 20000)])
def test_the_interval_of_a_tpr_knows_that_its_threshold_is_estimated(rng, fpr, examples):
    """The truth is outside in 5% or fewer: of 150, more than 17 come in 1 of 10,000 runs.

    With the threshold taken as given, Clopper and Pearson's interval leaves it out in half of them.
    """
    truth, lost, plain, runs = norm.sf(norm.isf(fpr) - 1), 0, 0, 150
    for _ in range(runs):
        scores, members = draw(rng, 1, examples)
        low, high = tail_interval(scores[members], scores[~members], fpr)
        lost += not low <= truth <= high
        curve = roc(scores[0], members[0])
        found = curve.tpr[curve.fpr <= fpr][-1].item() * int(members.sum())
        _, low, high, _ = clopper_pearson(round(found), int(members.sum()))
        plain += not low <= truth <= high
    assert lost <= 17
    assert plain > 30


def test_ties_are_split_as_the_test_splits_them():
    """Half of 2,000 on either side score 1: TPR at 1% FPR is 1% of 10% / 10%, near the diagonal."""
    scores = (torch.arange(2000) % 10 == 0).float()
    low, high = tail_interval(scores, scores.clone(), 0.01)
    assert 0.004 < low < 0.01 < high < 0.02


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_the_summary_covers_the_truth(rng, shared):
    """In 95% or more for the AUC; the other two have a small bias, of their thresholds."""
    truth = {
        "auc": norm.cdf(1 / np.sqrt(2)),
        "balanced_accuracy": norm.cdf(0.5),
        "tpr_1pct": norm.cdf(norm.ppf(0.01) + 1),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
        summary = summarise(*draw(rng, 4, 400, shared=shared))
        for name, value in truth.items():
            _, low, high, _ = getattr(summary, name)
            held[name] += low <= value <= high
    assert held["auc"] >= 95
    assert min(held.values()) >= 90


def test_the_interval_covers_the_truth_of_targets_that_differ(rng):
    """For two targets whose shifts have a std of 0.2; over examples alone it is in 65%."""
    truth, held = norm.cdf(1 / np.sqrt(2 + 0.2**2)), 0
    for _ in range(60):
        members = torch.rand(2, 1000, generator=rng) < 0.5
        shift = 1 + 0.2 * torch.randn(2, 1, generator=rng)
        scores = torch.randn(2, 1000, generator=rng) + shift * members
        _, low, high, _ = summarise(scores, members).auc
        held += low <= truth <= high
    assert held >= 54  # 95% of 60 is 57; fewer than 54 come in 2% of runs


def test_no_leak_gives_half_within_the_interval(rng):
    scores, members = draw(rng, 5, 1000, shift=0.0)
    summary = summarise(scores, members)
    assert summary.auc.low <= 0.5 <= summary.auc.high
    assert summary.tpr_1pct.low <= 0.01 <= summary.tpr_1pct.high


def test_a_tiny_pool_survives_resamples_without_members():
    summary = summarise(torch.arange(8.0).repeat(2, 1), torch.tensor([[0, 1] * 4] * 2).bool())
    assert 0 <= summary.auc.low <= summary.auc.value <= summary.auc.high <= 1


def test_scores_that_are_not_numbers_are_refused():
    members = torch.arange(20) % 2 == 0
    with pytest.raises(ValueError, match="20 NaN of 20"):
        summarise(torch.full((1, 20), torch.nan), members[None])
    with pytest.raises(ValueError, match="got 0 members of 20"):
        summarise(torch.zeros(1, 20), torch.zeros(1, 20, dtype=torch.bool))


def test_equal_values_claim_no_certainty():
    """No target finds a member before the first non-member; accuracy 1 of 50 is at least 92.9%."""
    members = (torch.arange(200) % 2 == 0).expand(3, 200)
    scores = torch.where(members, 0.0, 1.0) + torch.linspace(0, 0.5, 200)
    summary = summarise(scores, members)
    assert summary.tpr_01pct[:2] == (0, 0)
    assert 0.005 < summary.tpr_01pct.high < 0.05
    always = mean_accuracy(torch.ones(3, 100, dtype=torch.bool))
    assert always[:3] == pytest.approx((1, 0.9289, 1), abs=1e-4)


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
