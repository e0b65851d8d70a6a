import pytest
import torch
from torch import nn

from quantization import independent
from quantization.calibration import Calibration
from quantization.independent import quantize_independently
from quantization.quantize import quantize_network
from quantization.reconstruct import Plan
from quantization.variant import Variant


@pytest.fixture
def network(rng):
    """Two layers of one size, two that are grouped, and three others."""
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * 0.4
    return made.eval()


@pytest.fixture
def calibration(rng):
    images = torch.randn(40, 3, 6, 6, generator=rng)
    return Calibration(images, lambda number: images, torch.arange(40), "members", 0)


@pytest.mark.parametrize("name", ["obc-w2", "obc-w1.58-last8"])
def test_layers_that_go_together_get_the_codes_of_each_alone(
    network, calibration, monkeypatch, name
):
    variant = Variant.parse(name)
    stacks = []
    real = independent.obc
    monkeypatch.setattr(independent, "obc", lambda *args: stacks.append(args) or real(*args))
    together, record = quantize_network(network, variant, calibration)
    assert sorted(len(rows) for rows, _, _ in stacks) == [5, 8, 8, 16, 16]
    monkeypatch.setattr(independent, "SPACE", 1)
    alone, other = quantize_network(network, variant, calibration)
    assert len(stacks) == 5 + 7
    assert all(torch.equal(together.weights[k].codes, w.codes) for k, w in alone.weights.items())
    names = ["0", "2", "4", "5", "7", "8", "11"]
    assert [layer.name for layer in record.layers] == names
    assert [layer.error_after for layer in record.layers] == [
        layer.error_after for layer in other.layers
    ]


def test_hooks_are_taken_off(network, calibration, rng):
    broken = calibration._replace(images=calibration.images * torch.nan)
    plan = Plan(network[0], network[0].weight.flatten(1), None, 2)
    with pytest.raises(ValueError, match="`0` is given values that are not finite"):
        quantize_independently(network, {"0": plan}, Variant.parse("obc-w2"), broken, rng)
    assert not network[0]._forward_hooks
