import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pruning.groups import find_groups

ROWS = [[0], [1], [2], [3]]


def test_a_group_holds_each_channel_of_two_layers(two_layers):
    """The map of 3x3 that is flattened gives each channel nine inputs of the linear layer."""
    (group,), left = find_groups(two_layers, torch.zeros(1, 1, 4, 4))
    found = {(piece.key, piece.axis): piece for piece in group.slices}
    assert (group.name, group.size, left) == ("conv", 4, [])
    statistics = [f"norm.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
    rows = {("conv.weight", 0), ("conv.bias", 0), *((key, 0) for key in statistics)}
    assert found.keys() == rows | {("fc.weight", 1)}
    assert all(found[place].positions.tolist() == ROWS for place in rows)
    nine = [list(range(9 * channel, 9 * channel + 9)) for channel in range(4)]
    assert found["fc.weight", 1].positions.tolist() == nine
    assert {piece.key for piece in group.slices if piece.role == "scale"} == {"norm.weight"}
    assert {key for key, _ in found if found[key, _].role == "weight"} == {
        *("conv.weight", "fc.weight")
    }


def test_residual_branches_share_their_channels(make, images):
    groups, left = find_groups(make("resnet8"), images)
    by_name = {group.name: group for group in groups}
    assert left == []
    assert {name: group.size for name, group in by_name.items()} == {
        **{"conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer2.0.conv2": 32},
        **{"layer3.0.conv1": 64, "layer3.0.conv2": 64},
    }
    weights = [piece for piece in by_name["conv1"].slices if piece.role == "weight"]
    assert {(piece.key, piece.axis) for piece in weights} == {
        *(("conv1.weight", 0), ("layer1.0.conv1.weight", 1), ("layer1.0.conv2.weight", 0)),
        *(("layer2.0.conv1.weight", 1), ("layer2.0.downsample.0.weight", 1)),
    }


def test_sub_groups_lose_a_channel_each(branches, images):
    groups = {group.name: group for group in find_groups(branches, images)[0]}
    assert {name: group.size for name, group in groups.items()} == {
        **{"stem": 2, "grouped": 4, "point": 4, "wider": 3, "joined": 6}
    }
    pieces = {(piece.key, piece.axis): piece.positions for piece in groups["stem"].slices}
    assert pieces["stem.weight", 0].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert pieces["grouped.weight", 1].tolist() == [[0], [1]]
    assert pieces["joined.weight", 1].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    pieces = {(piece.key, piece.axis): piece.positions for piece in groups["wider"].slices}
    assert pieces["wider.weight", 1].tolist() == [[0], [1], [2]]
    assert pieces["wider.bias", 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert pieces["joined.weight", 1].tolist() == [[8, 11], [9, 12], [10, 13]]


@pytest.mark.parametrize(
    ("layer", "stays"),
    [
        (nn.LayerNorm(8), "0"),
        (weight_norm(nn.Linear(8, 8)), "0"),
        (nn.GroupNorm(8, 8), "0"),  # each channel is a sub-group of its own
    ],
    ids=["LayerNorm", "weight_norm", "GroupNorm"],
)
def test_channels_that_cannot_be_narrowed_are_named(layer, stays):
    network = nn.Sequential(nn.Linear(5, 8), layer, nn.ReLU(), nn.Linear(8, 3))
    groups, left = find_groups(network, torch.zeros(2, 5))
    assert groups == []
    assert stays in left


def test_layers_that_share_their_weights_stay(make):
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    network[2].weight = network[0].weight
    assert find_groups(network, torch.zeros(2, 6)) == ([], ["0", "2"])


def test_a_network_that_cannot_be_traced_is_named():
    class Shuffled(nn.Module):
        def forward(self, images):
            raise RuntimeError("no\nway")

    with pytest.raises(ValueError, match=r"cannot trace Shuffled: RuntimeError: no way\. T"):
        find_groups(Shuffled(), torch.zeros(1))
