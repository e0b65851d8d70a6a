"""The global threshold, worked by hand."""

import torch

from attacks.threshold import global_threshold


def test_mean_over_queries():
    target = torch.tensor([[1.0, -2.0, 3e8], [3.0, 5.0, 1.0]])
    scores = global_threshold(target, torch.zeros(4, 2, 3), torch.zeros(4, 3, dtype=torch.bool))
    assert scores.tolist() == [2.0, 1.5, 150000000.5]  # in float32 the last would lose the half
