import copy

import pytest
import torch
from torch import nn

from pruning.groups import find_groups
from pruning.penalty import shrink

KEPT = {"conv": [0, 2]}


def channel(network, number):
    """All weights and scales of a channel of two layers, as one vector."""
    into = network.fc.weight[:, 9 * number : 9 * number + 9]
    parts = network.conv.weight[number], network.norm.weight[number], into
    return torch.cat([part.flatten() for part in parts]).detach()


def test_a_step_is_the_proximal_operator_of_the_penalty(two_layers):
    """Its closed form; and no point nearby does better by the operator's own definition."""
    groups, _ = find_groups(two_layers, torch.zeros(1, 1, 4, 4))
    before, amount = copy.deepcopy(two_layers), 0.05
    shrink(dict(two_layers.named_parameters()), groups, KEPT, amount)
    for number in (1, 3):
        old, new = channel(before, number).double(), channel(two_layers, number).double()
        weight = amount * len(old) ** 0.5
        torch.testing.assert_close(new, old * max(0, 1 - weight / old.norm().item()))
        best = (new - old).square().sum() / 2 + weight * new.norm()
        for _ in range(50):
            near = new + 0.01 * torch.randn_like(new)
            assert (near - old).square().sum() / 2 + weight * near.norm() > best - 1e-9
    for number in KEPT["conv"]:
        assert torch.equal(channel(two_layers, number), channel(before, number))
    assert torch.equal(two_layers.conv.bias, before.conv.bias)
    assert torch.equal(two_layers.norm.bias, before.norm.bias)


def test_a_penalty_moves_the_parameters(make, images):
    """Unlike a penalty that is computed without a gradient."""
    network = make("resnet8")
    groups, _ = find_groups(network, images)
    before = {key: weight.clone() for key, weight in network.named_parameters()}
    kept = {group.name: list(range(1, group.size)) for group in groups}
    shrink(dict(network.named_parameters()), groups, kept, 1e-3)
    moved = {k for k, weight in network.named_parameters() if not torch.equal(weight, before[k])}
    assert moved == {piece.key for g in groups for piece in g.slices if piece.role != "other"}


def test_a_strong_penalty_ends_at_zero_and_stays_there(two_layers):
    groups, _ = find_groups(two_layers, torch.zeros(1, 1, 4, 4))
    for _ in range(2):
        shrink(dict(two_layers.named_parameters()), groups, KEPT, 10.0)
        assert [bool(channel(two_layers, number).any()) for number in range(4)] == [1, 0, 1, 0]
    shrink(dict(two_layers.named_parameters()), groups, KEPT, 0.0)
    assert channel(two_layers, 0).isfinite().all()


def test_a_weight_between_two_selected_channels_shrinks_once():
    """By the stronger of both factors; the weights that one channel has alone, by its own."""
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    groups, _ = find_groups(network, torch.zeros(2, 3))
    before = copy.deepcopy(network)
    shrink(dict(network.named_parameters()), groups, {"0": [1], "2": [0]}, 0.02)
    first = torch.cat([before[0].weight[0], before[2].weight[:, 0]]).norm().item()
    second = torch.cat([before[2].weight[1], before[4].weight[:, 1]]).norm().item()
    factors = [1 - 0.02 * 5**0.5 / norm for norm in (first, second)]
    ratio = network[2].weight / before[2].weight
    expected = torch.tensor([[factors[0], 1.0], [min(factors), factors[1]]])
    torch.testing.assert_close(ratio, expected)
    assert (network[0].weight / before[0].weight)[0].detach() == pytest.approx(factors[0])
    assert (network[4].weight / before[4].weight)[:, 1].detach() == pytest.approx(factors[1])
