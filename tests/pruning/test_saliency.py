import pytest
import torch

from pruning.groups import Group, Slice, find_groups
from pruning.saliency import saliency


def test_saliency_matches_the_slow_loop_on_two_layers(two_layers):
    groups, _ = find_groups(two_layers, torch.zeros(1, 1, 4, 4))
    scores = saliency(dict(two_layers.named_parameters()), groups)["conv"]
    for channel in range(4):
        out = two_layers.conv.weight[channel].flatten().tolist()
        into = two_layers.fc.weight[:, 9 * channel : 9 * channel + 9].flatten().tolist()
        gamma = two_layers.norm.weight[channel].item()
        parts = [sum(w * w for w in part) / len(part) ** 0.5 for part in (out, into)]
        assert scores[channel].item() == pytest.approx((sum(parts) + gamma**2) / 3, rel=1e-5)


def test_the_bias_of_a_layer_does_not_count(two_layers):
    groups, _ = find_groups(two_layers, torch.zeros(1, 1, 4, 4))
    before = saliency(dict(two_layers.named_parameters()), groups)["conv"]
    torch.nn.init.constant_(two_layers.conv.bias, 9.0)
    torch.nn.init.constant_(two_layers.norm.bias, 9.0)
    assert torch.equal(saliency(dict(two_layers.named_parameters()), groups)["conv"], before)


def test_a_channel_of_several_sub_groups_counts_all_of_them(branches, images):
    """Four input filters per channel in the stem, one reading slice in the grouped convolution."""
    groups, _ = find_groups(branches, images)
    stem = next(group for group in groups if group.name == "stem")
    score = saliency(dict(branches.named_parameters()), [stem])["stem"][1].item()
    slices = [
        branches.stem.weight[[1, 3, 5, 7]],
        branches.grouped.weight[:, 1],
        branches.joined.weight[:, [1, 3, 5, 7]],
    ]
    expected = sum((part**2).sum().item() / part.numel() ** 0.5 for part in slices) / 3
    assert score == pytest.approx(expected, rel=1e-5)


def test_scales_of_sub_groups_count_by_their_mean():
    """Channels 0 and 1 have the scales at 0 and 2, and at 1 and 3."""
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0])
    piece = Slice("norm.weight", 0, torch.tensor([[0, 2], [1, 3]]), "scale")
    scores = saliency({"norm.weight": scales}, [Group("conv", (piece,))])["conv"]
    assert scores.tolist() == [(1 + 9) / 2, (4 + 16) / 2]
