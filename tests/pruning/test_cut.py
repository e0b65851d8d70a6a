import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pruning.cut import cut, kept_positions, kept_shapes, load, reshape, shapes_of, widths, zeroed
from pruning.groups import find_groups

NAMES = ["resnet8", "convnet", "wide_resnet28_2", "densenet121", "mlp"]


def every_other(groups):
    return {group.name: list(range(1, group.size, 2)) or [0] for group in groups}


def cut_copy(network, images):
    """A cut copy, its groups and what it keeps."""
    groups, _ = find_groups(network, images)
    kept, small = every_other(groups), copy.deepcopy(network)
    cut(small, kept_positions(groups, kept, shapes_of(network)))
    return small, groups, kept


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_computes_what_zeros_would(make, images, name):
    network = make(name)
    small, groups, kept = cut_copy(network, images)
    torch.testing.assert_close(small(images), zeroed(network, groups, kept)(images))
    assert not torch.equal(small(images), network(images))


def test_grouped_depthwise_and_transposed_convolutions_compute_what_zeros_would(branches, images):
    small, groups, kept = cut_copy(branches, images)
    torch.testing.assert_close(small(images), zeroed(branches, groups, kept)(images))
    assert (small.depthwise.groups, small.grouped.groups, small.wider.groups) == (4, 4, 2)
    assert widths(small) == {
        **{"stem": 4, "grouped": 8, "point": 4, "depthwise": 4, "wider": 2, "joined": 3, "fc": 10}
    }


@pytest.mark.parametrize("name", ["convnet_gn", "resnet8_gn"])
def test_group_norm_keeps_its_groups(make, images, name):
    """Zeros would count in its statistics, so the oracle is a narrower network with our weights."""
    network = make(name)
    small, groups, kept = cut_copy(network, images)
    norms = [layer for layer in small.modules() if isinstance(layer, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {8}
    assert all(norm.num_channels == len(norm.weight) for norm in norms)
    assert small(images).shape == (3, 10)
    assert shapes_of(small) == kept_shapes(groups, kept, shapes_of(network))


@pytest.mark.parametrize("name", [*NAMES, "resnet8_gn"])
def test_kept_channels_alone_rebuild_the_network(make, images, name):
    """And so do the weights alone, without its groups; both from a dense network by its name."""
    small, groups, kept = cut_copy(make(name), images)
    by_channels, by_weights = make(name), make(name)
    cut(by_channels, kept_positions(groups, kept, shapes_of(by_channels)))
    load(by_weights, small.state_dict())
    assert str(by_channels) == str(by_weights) == str(small)
    assert shapes_of(by_channels) == shapes_of(by_weights) == shapes_of(small)
    assert torch.equal(by_weights(images), small(images))


def test_a_narrow_network_is_widened_for_a_snapshot(make, images, branches):
    for network in (make("resnet8"), branches):
        small, _, _ = cut_copy(network, images)
        load(small, network.state_dict())
        assert str(small) == str(network)
        torch.testing.assert_close(small(images), network(images))


def test_another_network_is_refused(make):
    with pytest.raises(RuntimeError, match="Missing key"):
        load(make("resnet8"), make("convnet").state_dict())


def test_one_channel_is_enough(make, images):
    network = make("resnet8")
    groups, _ = find_groups(network, images)
    kept = {group.name: [group.size - 1] for group in groups}
    cut(network, kept_positions(groups, kept, shapes_of(network)))
    assert network(images).isfinite().all()
    assert set(widths(network).values()) == {1, 10}


def test_momentum_goes_on_with_its_weights(make, images):
    """The next step is that of a dense network in which all else is zero and stays so."""
    network = make("convnet").train()
    groups, _ = find_groups(network, images)
    kept, shapes = every_other(groups), shapes_of(network)
    positions = kept_positions(groups, kept, shapes)
    labels = torch.tensor([0, 1, 2])

    def step(network, optimizer):
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()

    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    step(network, optimizer)
    dense = zeroed(network, groups, kept).train()
    follower = torch.optim.SGD(dense.parameters(), 0.1, 0.9)
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    cut(network, positions, [optimizer])
    for weight in network.parameters():
        assert weight.grad is None or weight.grad.shape == weight.shape
    step(network, optimizer)
    step(dense, follower)
    cut(dense, positions)
    for key, weight in network.state_dict().items():
        torch.testing.assert_close(weight, dense.state_dict()[key])
    assert {tuple(s["momentum_buffer"].shape) for s in optimizer.state.values()} == {
        tuple(weight.shape) for weight in network.parameters()
    }


def test_weights_lie_in_memory_as_they_would_after_loading(make, images):
    """Strides choose kernels, and a resumed fit must run the same ones."""
    network = make("resnet8").to(memory_format=torch.channels_last)
    small, _, _ = cut_copy(network, images)
    loaded = make("resnet8").to(memory_format=torch.channels_last)
    reshape(loaded, small.state_dict())
    strides = {key: weight.stride() for key, weight in loaded.state_dict().items()}
    assert strides == {key: weight.stride() for key, weight in small.state_dict().items()}
    assert small.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_parameters_stay_frozen(make, images):
    network = make("convnet").requires_grad_(False)
    small, _, _ = cut_copy(network, images)
    assert not any(weight.requires_grad for weight in small.parameters())
