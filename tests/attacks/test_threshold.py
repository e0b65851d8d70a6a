"""The global threshold and the gap attack, worked by hand."""

import pytest
import torch

from attacks.metrics.measures import balanced_accuracy
from attacks.metrics.roc import auc, roc
from attacks.threshold import gap, global_threshold


def test_the_global_threshold_is_a_mean_over_queries():
    target = torch.tensor([[1.0, -2.0, 3e8], [3.0, 5.0, 1.0]])
    scores = global_threshold(target)
    assert scores.tolist() == [2.0, 1.5, 150000000.5]  # in float32 the last would lose the half


def test_gap_is_the_share_of_right_answers():
    correct = torch.tensor([[True, False, True], [True, False, False], [True, False, False]])
    assert gap(correct).dtype == torch.float64
    torch.testing.assert_close(gap(correct), torch.tensor([3, 0, 1]).double() / 3)
    assert gap(correct.expand(5, 2, 3, 3)).shape == (5, 2, 3)


def test_gap_wins_half_the_difference_of_the_accuracies():
    """Right on 9 of 10 members and 6 of 10 non-members.

    Either of two such targets is accused at the other's best threshold, a right answer.
    """
    members = torch.arange(20) < 10
    correct = (torch.arange(20) < 9) | (torch.arange(20) >= 14)
    curve = roc(gap(correct[None]), members)
    alike = balanced_accuracy(gap(correct[None]).expand(2, -1), members.expand(2, -1))
    assert alike.values.tolist() == pytest.approx([0.5 + (0.9 - 0.6) / 2] * 2)
    assert auc(curve).item() == pytest.approx(0.5 + (0.9 - 0.6) / 2)  # one threshold, two lines


def test_gap_finds_members_if_and_only_if_they_leak(synthetic_fleet):
    for leak, low, high in [(3.0, 0.6, 1.0), (0.0, 0.47, 0.53)]:
        phi, members = synthetic_fleet(examples=2000, leak=leak)
        assert low < auc(roc(gap(phi[-1] > 0), members[-1])).item() < high
