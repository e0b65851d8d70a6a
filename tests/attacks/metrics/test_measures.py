"""Measures against slow loops, values by hand, exact levels and invariants."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks.metrics.measures import MEASURES, area, balanced_accuracy, measure, tail_rate


def draw(rng, targets, examples, shift=1.0, decimals=6):
    members = torch.rand(targets, examples, generator=rng).argsort(1) < examples // 2
    scores = torch.randn(targets, examples, generator=rng) + shift * members
    return scores.double().round(decimals=decimals), members


def accused(score, known, fpr):
    """The smoothed test, for one example against a list of non-members."""
    above = sum(other > score for other in known)
    tied = sum(other == score for other in known)
    return min(max((fpr * (len(known) + 1) - above) / (tied + 1), 0), 1)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_the_area_of_each_target_matches_sklearn(rng, decimals):
    scores, members = draw(rng, 3, 60, decimals=decimals)
    values = area(scores, members).values.tolist()
    expected = [roc_auc_score(m, s) for m, s in zip(members, scores, strict=True)]
    assert values == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
@pytest.mark.parametrize("fpr", [0.01, 0.09])
def test_a_tail_rate_matches_the_slow_loop(rng, decimals, fpr):
    """Thresholds of the first 2 of 5 targets are set by the last 3, and the other way round."""
    scores, members = draw(rng, 5, 40, decimals=decimals)
    every = scores[~members].tolist()
    inside = scores[members].tolist()
    found = [sum(accused(s, every, f) for s in inside) / len(inside) for f in (2 * fpr, fpr / 2)]
    slope = (found[0] - found[1]) / (1.5 * fpr)
    expected = []
    for target, (row, own) in enumerate(zip(scores, members, strict=True)):
        others = slice(2, None) if target < 2 else slice(2)
        known = scores[others][~members[others]].tolist()
        rates = [
            sum(accused(s, known, fpr) for s in side) / len(side)
            for side in (row[own].tolist(), row[~own].tolist())
        ]
        expected.append(rates[0] - slope * (rates[1] - fpr))
    assert tail_rate(scores, members, fpr).values.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("non_members", [3, 40, 250])
@pytest.mark.parametrize("tied", [False, True], ids=["no-ties", "ties"])
def test_the_level_of_the_tail_is_exact_however_few_the_non_members(rng, non_members, tied):
    """Members like non-members are found at the level itself: within 4 standard errors of it."""
    found = []
    for _ in range(300):
        scores = torch.randn(1, 2 * non_members, generator=rng).double()
        if tied:
            scores = scores.round(decimals=0)
        members = torch.arange(2 * non_members)[None] < non_members
        found.append(tail_rate(scores, members, 0.1).values.item())
    rates = torch.tensor(found)
    assert abs(rates.mean() - 0.1) < 4 * rates.std() / 300**0.5


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_targets_with_2_false_positives_set_their_own_thresholds(rng, decimals):
    scores, members = draw(rng, 3, 400, decimals=decimals)
    expected = []
    for row, own in zip(scores, members, strict=True):
        known = row[~own].tolist()
        expected.append(sum(accused(s, known, 0.01) for s in row[own].tolist()) / 200)
    assert tail_rate(scores, members, 0.01).values.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_leak_in_the_tail_is_found_whatever_the_levels_of_the_targets(rng):
    """Truth: 9.2%. A common threshold would find 2% on average where levels differ like this."""
    values = []
    for _ in range(100):
        scores, members = draw(rng, 2, 600)
        scores += 0.6 * torch.randn(2, 1, generator=rng)
        values.append(tail_rate(scores, members, 0.01).values.mean())
    assert 0.08 < torch.stack(values).mean() < 0.1


def test_targets_on_different_scales_keep_the_level_on_average(rng):
    """Two targets, one shifted by 0.5: a threshold of the other accuses 3% or 0.3% of its own."""
    values = []
    for _ in range(200):
        scores, members = draw(rng, 2, 2000, shift=0.0)
        scores[1] += 0.5
        values.append(tail_rate(scores, members, 0.01).values.mean())
    rates = torch.stack(values)
    assert abs(rates.mean() - 0.01) < 4 * rates.std() / 200**0.5 + 0.001


def test_balanced_accuracy_is_a_half_where_nothing_leaks(rng):
    """Chosen on the same 200 examples, the best threshold would give 0.56."""
    for targets in (1, 2, 5):
        values = torch.stack(
            [
                balanced_accuracy(*draw(rng, targets, 200, shift=0.0)).values.mean()
                for _ in range(200)
            ]
        )
        assert abs(values.mean() - 0.5) < 4 * values.std() / 200**0.5


def test_the_threshold_of_balanced_accuracy_is_the_other_halfs():
    """By hand: the first target's best threshold is 3, the second's 1."""
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 1.0, 0.0]])
    members = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    # at 1 the first accuses everybody; at 3 the second finds 2 of 3 members and no other
    assert balanced_accuracy(scores, members).values.tolist() == pytest.approx([0.5, 5 / 6])


@pytest.mark.parametrize("metric", MEASURES)
@pytest.mark.parametrize("targets", [1, 4])
def test_influences_sum_to_nothing_and_predict_what_an_example_changes(rng, metric, targets):
    """The variance over repeated draws is that of the cells, within 4 standard errors."""
    values, variances = [], []
    for _ in range(300):
        scores, members = draw(rng, targets, 400)
        measured = MEASURES[metric](scores, members)
        assert measured.influence.sum(1).tolist() == pytest.approx([0] * targets, abs=1e-9)
        values.append(measured.values.mean())
        variances.append(measured.influence.square().sum() / targets**2)
    seen, expected = torch.stack(values).var(), torch.stack(variances).mean()
    if metric == "tpr_01pct":  # 0.2 or 0.8 of a non-member: no linear approximation holds
        return
    assert 0.6 < seen / expected < 1.6


@pytest.mark.parametrize("targets", [1, 3])
def test_only_the_order_of_scores_matters(rng, targets):
    scores, members = draw(rng, targets, 200)
    other = measure(scores.exp() * 1e-300, members)
    for metric, measured in measure(scores, members).items():
        for expected, values in zip(measured, other[metric], strict=True):
            assert torch.equal(values, expected)


def test_nan_scores_and_a_missing_side_are_refused():
    with pytest.raises(ValueError, match="got 1 NaN of 3"):
        area(torch.tensor([[torch.nan, 0.0, 1.0]]), torch.tensor([[True, False, True]]))
    with pytest.raises(ValueError, match="got 3 members of 3"):
        area(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
