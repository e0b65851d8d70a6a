"""Metrics against scikit-learn and brute force over thresholds."""

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from attacks.metrics.roc import auc, check, count_below, roc


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


def test_perfect_and_constant_scores():
    members = torch.tensor([True, True, False, False])
    perfect = roc(torch.tensor([torch.inf, 3.0, 2.0, -torch.inf]), members)
    assert (auc(perfect), perfect.tpr[perfect.fpr == 0].max()) == (1, 1)
    constant = roc(torch.zeros(4), members)
    assert constant.fpr.tolist() == constant.tpr.tolist() == [0, 1]
    assert auc(constant) == 0.5


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


@pytest.mark.parametrize("values", [3, 1000], ids=["ties", "no-ties"])
def test_examples_below_each_example_match_a_slow_loop(rng, values):
    """Targets differ in how many members they have; scores may be infinite."""
    scores = torch.randint(values, (3, 40), generator=rng).double()
    scores[0, :3], scores[1, 5] = torch.inf, -torch.inf
    members = torch.rand(3, 40, generator=rng) < torch.tensor([[0.1], [0.5], [0.9]])
    for side, below in zip(
        (members, ~members), count_below(scores, (members, ~members)), strict=True
    ):
        for target, row in enumerate(scores.tolist()):
            known = scores[target][side[target]].tolist()
            lower = [sum(other < score for other in known) for score in row]
            tied = [sum(other == score for other in known) for score in row]
            assert below.lower[target].tolist() == lower
            assert below.tied[target].tolist() == tied
            assert below.total[target].tolist() == [len(known)]
            shares = [(a + b / 2) / len(known) for a, b in zip(lower, tied, strict=True)]
            assert below.shares[target].tolist() == pytest.approx(shares, abs=1e-15)


def test_a_target_without_one_side_is_refused():
    members = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match="got 2 members of 2 examples"):
        check(torch.zeros(2, 2), members)


def test_nan_scores_and_a_missing_side_are_refused():
    with pytest.raises(ValueError, match="got 2 NaN of 3"):
        roc(torch.tensor([torch.nan, 0.0, torch.nan]), torch.tensor([True, False, True]))
    for members in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=f"got {members.sum()} members of 3"):
            roc(torch.zeros(3), members)
