"""Metrics against scikit-learn and brute force over thresholds."""

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from attacks.metrics.roc import auc, balanced_accuracy, fpr_at, roc, tpr_at


def draw(rng, examples=500, decimals=6, share=0.3, scale=1.0):
    members = torch.rand(examples, generator=rng) < share
    return (scale * torch.randn(examples, generator=rng) + members).round(
        decimals=decimals
    ), members


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_curve_matches_sklearn(rng, scale, decimals, share):
    scores, members = draw(rng, decimals=decimals, share=share, scale=scale)
    curve = roc(scores, members)
    fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
    assert curve.fpr.tolist() == pytest.approx(fpr.tolist(), abs=1e-15)
    assert curve.tpr.tolist() == pytest.approx(tpr.tolist(), abs=1e-15)
    assert auc(curve).item() == pytest.approx(roc_auc_score(members, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_operating_points_match_brute_force(rng, decimals):
    scores, members = draw(rng, 300, decimals)
    rates = []
    for threshold in [torch.inf, *scores.tolist()]:
        caught = scores >= threshold
        rates.append(
            (caught[~members].double().mean().item(), caught[members].double().mean().item())
        )
    curve = roc(scores, members)
    best = max(1 - (fpr + 1 - tpr) / 2 for fpr, tpr in rates)
    assert balanced_accuracy(curve).item() == pytest.approx(best, abs=1e-15)
    for limit in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0):
        allowed = [(fpr, tpr) for fpr, tpr in rates if fpr <= limit]
        assert (fpr_at(curve, limit).item(), tpr_at(curve, limit).item()) == max(allowed)


@pytest.mark.parametrize("non_members", [100, 1000, 7000])
@pytest.mark.parametrize("limit", [0.01, 0.03, 0.07, 0.29, 0.57])
def test_the_limit_itself_is_allowed_despite_rounding(non_members, limit):
    """0.07 x 100 and 0.29 x 100 are not whole in floating point; their 7 and 29 are allowed."""
    scores = torch.arange(2.0 * non_members)
    members = torch.arange(2 * non_members) % 2 == 0
    count = round(fpr_at(roc(scores, members), limit).item() * non_members)
    assert count == round(limit * non_members)


def test_a_thousand_non_members_allow_one_false_positive_at_a_thousandth():
    """The strict < of public code allows none: a TPR of 0.25 instead of 0.75 here."""
    outside = torch.arange(1000.0)
    inside = torch.tensor([2000.0, 998.5, 998.5, 0.5])
    curve = roc(torch.cat([outside, inside]), torch.arange(1004) >= 1000)
    assert tpr_at(curve, 0.001) == 0.75
    assert tpr_at(curve, 0.000999) == 0.25


def test_perfect_and_constant_scores():
    members = torch.tensor([True, True, False, False])
    perfect = roc(torch.tensor([torch.inf, 3.0, 2.0, -torch.inf]), members)
    assert (auc(perfect), balanced_accuracy(perfect), tpr_at(perfect, 0.0)) == (1, 1, 1)
    constant = roc(torch.zeros(4), members)
    assert constant.fpr.tolist() == constant.tpr.tolist() == [0, 1]
    assert (auc(constant), balanced_accuracy(constant), tpr_at(constant, 0.5)) == (0.5, 0.5, 0)


@pytest.mark.parametrize("decimals", [0, 6])
def test_swapped_labels_and_inverted_scores_mirror_the_curve(rng, decimals):
    scores, members = draw(rng, decimals=decimals)
    area = auc(roc(scores, members)).item()
    assert auc(roc(scores, ~members)).item() == pytest.approx(1 - area, abs=1e-12)
    assert auc(roc(-scores, members)).item() == pytest.approx(1 - area, abs=1e-12)


def test_only_the_order_of_scores_matters(rng):
    scores, members = draw(rng)
    order = torch.randperm(len(scores), generator=rng)
    for other in (roc(scores.double().exp() * 1e-300, members), roc(scores[order], members[order])):
        for expected, rates in zip(roc(scores, members), other, strict=True):
            assert torch.equal(rates, expected)


@pytest.mark.parametrize("decimals", [0, 6])
def test_weights_are_literal_resampling(rng, decimals):
    scores, members = draw(rng, 80, decimals)
    drawn = torch.randint(80, (20, 80), generator=rng)
    weights = torch.stack([row.bincount(minlength=80) for row in drawn])
    batched = roc(scores, members, weights)
    for row, indices in enumerate(drawn):
        literal = roc(scores[indices], members[indices])
        for metric in (auc, balanced_accuracy, lambda c: tpr_at(c, 0.1), lambda c: fpr_at(c, 0.1)):
            assert metric(batched)[row].item() == pytest.approx(metric(literal).item(), abs=1e-12)


@pytest.mark.parametrize("lost", [True, False], ids=["no member", "no non-member"])
def test_a_resample_without_a_side_is_nan(lost):
    members = torch.tensor([True, True, False, False])
    weights = torch.stack([(members != lost).int() * 2, torch.ones(4, dtype=torch.int32)])
    curve = roc(torch.arange(4.0), members, weights)
    for value in (auc(curve), balanced_accuracy(curve), tpr_at(curve, 0.5), fpr_at(curve, 0.5)):
        assert value.isnan().tolist() == [True, False]


def test_nan_scores_and_a_missing_side_are_refused():
    with pytest.raises(ValueError, match="got 2 NaN of 3"):
        roc(torch.tensor([torch.nan, 0.0, torch.nan]), torch.tensor([True, False, True]))
    for members in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=f"got {members.sum()} members of 3"):
            roc(torch.zeros(3), members)
