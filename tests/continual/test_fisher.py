import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from continual import fisher as module
from continual.fisher import consolidate, consolidation_penalty, diagonal_fisher
from lightning_modules.networks import build_network


def slow_fisher(network, images, scale):
    """One image, one backward pass at a time."""
    network.eval()
    weights = {n: w for n, w in network.named_parameters() if w.requires_grad}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for image in images:
        logits = network(image[None])
        loss = cross_entropy(scale * logits, logits.argmax(1))
        for name, slope in zip(
            weights, torch.autograd.grad(loss, list(weights.values())), strict=True
        ):
            sums[name] += slope.square() / len(images)
    return sums


@pytest.mark.parametrize("name", ["convnet", "convnet_gn", "resnet8", "mlp"])
@pytest.mark.parametrize("scale", [1.0, 0.08])
def test_the_fisher_matches_a_slow_loop(rng, monkeypatch, name, scale):
    """In chunks, the last of which is shorter; with BatchNorm's statistics as they are."""
    network = build_network(name, 10, 1, {}, (1, 8, 8)).train()
    images = torch.randn(7, 1, 8, 8, generator=rng)
    size = sum(weight.numel() for weight in network.parameters())
    monkeypatch.setattr(module, "CHUNK_VALUES", 3 * size)
    before = copy.deepcopy(network.state_dict())
    values = diagonal_fisher(network, images, scale)
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    expected = slow_fisher(network, images, scale)
    assert values.keys() == expected.keys()
    for key, value in values.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-9)


def test_frozen_weights_have_no_fisher(rng):
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    images = torch.randn(5, 4, generator=rng)
    assert diagonal_fisher(network, images).keys() == {"2.weight", "2.bias"}


def test_the_fisher_of_a_sure_network_vanishes_unless_its_logits_are_scaled():
    network = nn.Linear(3, 3)
    with torch.no_grad():
        network.weight.copy_(1000 * torch.eye(3))
    sure, soft = (diagonal_fisher(network, torch.eye(3), s)["weight"].max() for s in (1.0, 1e-3))
    assert sure == 0
    assert soft > 1e-8


def stage(rng):
    shapes = {"a": (3, 2), "b": (4,)}
    weights = {n: torch.randn(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}
    fisher = {n: torch.rand(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}
    fisher["b"][0] = 0  # in every stage
    return weights, fisher


def test_the_gradient_is_that_of_every_stage_s_own_penalty(rng):
    stages, joined = [stage(rng) for _ in range(4)], None
    for weights, fisher in stages:
        joined = consolidate(joined, weights, fisher)
    leaves = {name: weight.requires_grad_() for name, weight in stage(rng)[0].items()}
    others = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    consolidation_penalty(leaves, joined).backward()
    for weights, fisher in stages:
        sum((fisher[n] * (others[n] - weights[n]) ** 2).sum() for n in fisher).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, others[name].grad)
    assert joined.anchor["b"][0] == stages[-1][0]["b"][0]


def test_the_first_stage_worked_by_hand():
    weights, fisher = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 0.5])}
    joined = consolidate(None, weights, fisher)
    assert consolidation_penalty(weights, joined) == 0
    moved = {"w": torch.tensor([2.0, 4.0])}
    assert consolidation_penalty(moved, joined) == 3 * 1 + 0.5 * 4
    weights["w"] += 1  # goes on training
    assert consolidation_penalty({"w": torch.tensor([1.0, 2.0])}, joined) == 0
