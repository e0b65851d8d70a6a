"""Cosines of single examples' gradients on all layers, against autograd one by one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from lightning_modules import example_gradients
from lightning_modules.example_gradients import compared, direction_of, full_cosines
from lightning_modules.networks import build_network


@pytest.fixture
def batch(rng):
    return torch.randn(7, 1, 8, 8, generator=rng), torch.randint(10, (7,), generator=rng)


@pytest.mark.parametrize("name", ["mlp", "convnet", "convnet_gn", "resnet8_gn"])
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_cosines_are_those_of_autograd_one_by_one(batch, monkeypatch, name, chunk):
    monkeypatch.setattr(example_gradients, "CHUNK", chunk)
    torch.manual_seed(1)
    network = build_network(name, 10, 1, {}, (1, 8, 8)).eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * torch.randn_like(weight)
    weights = [w for n, w in network.named_parameters() if not is_batchnorm(network, n)]
    assert list(compared(network).values()) == weights
    rows = []
    for image, label in zip(*batch, strict=True):
        loss = cross_entropy(network(image[None]), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    ways = torch.stack([direction_of(network, other), rows[0].double() - rows[1].double()])
    found = full_cosines(network, *batch, ways)
    for way, cosines in zip(ways, found, strict=True):
        expected = cosine_similarity(torch.stack(rows).double(), way[None], eps=0)
        torch.testing.assert_close(cosines, expected, rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 0.3


def is_batchnorm(network, name):
    return isinstance(network.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)


def test_batchnorm_is_left_out_and_a_direction_of_zero_is_at_no_angle(batch):
    network = build_network("convnet", 10, 1, {}, (1, 8, 8)).eval()
    assert len(compared(network)) < len(list(network.parameters()))
    ways = direction_of(network, network)[None]
    assert not full_cosines(network, *batch, ways).any()


class Sorting(nn.Module):
    """Looks at a value, which no transform of single examples can."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, images):
        return self.fc(images.flatten(1)) if images.sum() > -1e9 else images.flatten(1)


def test_a_network_without_such_gradients_is_named(batch):
    network = Sorting().eval()
    with pytest.raises(ValueError, match=r"Sorting has an operation without .*cosine last`\.$"):
        full_cosines(network, *batch, direction_of(network, network)[None])
