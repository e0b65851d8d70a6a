import pytest
import torch

from continual.fusion import Scale, fuse, measure, pool


def test_each_channel_is_averaged_over_the_image():
    maps = torch.arange(12.0).reshape(1, 3, 2, 2)
    rows = torch.tensor([[7.0, 8.0]])
    assert pool([maps, rows]).tolist() == [[1.5, 5.5, 9.5, 7.0, 8.0]]


@pytest.mark.parametrize("mean", [0.0, 1e6], ids=["near", "far"])
def test_mean_and_deviation_are_those_of_all_batches_together(mean):
    draws = torch.Generator().manual_seed(2)
    rows = mean + torch.randn(50, 4, generator=draws, dtype=torch.float64)
    scale = measure(rows.split(7))
    torch.testing.assert_close(scale.mean, rows.mean(0))
    torch.testing.assert_close(scale.deviation, rows.std(0, correction=0))
    fused = fuse(rows, scale)
    torch.testing.assert_close(fused.mean(0), torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(fused.std(0, correction=0), torch.ones(4).double())


def test_a_constant_feature_becomes_zero():
    rows = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])
    scale = measure([rows])
    assert scale.deviation[0] == 1
    assert fuse(rows, scale)[:, 0].tolist() == [0, 0, 0]


def test_features_stay_float32():
    scale = Scale(torch.zeros(2).double(), torch.ones(2).double())
    assert fuse(torch.ones(1, 2), scale).dtype == torch.float32


def test_no_example_to_standardise_by_is_refused():
    with pytest.raises(ValueError, match="got none"):
        measure([])
