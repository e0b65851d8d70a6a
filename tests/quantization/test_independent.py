from functools import partial

import pytest
import torch
from torch import nn

from quantization import independent
from quantization.calibration import Calibration, DivergedError
from quantization.independent import quantize_independently
from quantization.methods import METHODS
from quantization.quantize import quantize_network
from quantization.rounding.grid import find_grid
from quantization.rounding.obc import obc
from quantization.shared import Shared
from quantization.task import LayerPlan, Task
from quantization.trace import Trace
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
def test_stacked_layers_get_the_same_codes_as_alone(network, calibration, monkeypatch, name):
    variant = Variant.parse(name)
    stacks = []
    spy = partial(quantize_independently, solve=lambda *args: stacks.append(args) or obc(*args))
    monkeypatch.setitem(METHODS, "obc", METHODS["obc"]._replace(solve=spy))
    together, record = quantize_network(network, variant, calibration)
    assert sorted(len(rows) for rows, _, _ in stacks) == [5, 8, 8, 16, 16]
    monkeypatch.setattr(independent, "batch_space", lambda device: 1)
    alone, other = quantize_network(network, variant, calibration)
    assert len(stacks) == 5 + 7
    assert all(torch.equal(together.weights[k].codes, w.codes) for k, w in alone.weights.items())
    names = ["0", "2", "4", "5", "7", "8", "11"]
    assert [layer.name for layer in record.layers] == names
    assert [layer.error_after for layer in record.layers] == [
        layer.error_after for layer in other.layers
    ]


def test_hooks_are_removed_after_an_error(network, calibration):
    broken = calibration._replace(images=calibration.images * torch.nan)
    rows = network[0].weight.flatten(1)
    plan = LayerPlan(network[0], rows, find_grid(rows, 2, symmetric=False), 2)
    task = Task(Trace(network, calibration.images[:2]), {"0": plan}, [], broken, 0, Shared())
    with pytest.raises(DivergedError, match="`0` is given values that are not finite"):
        quantize_independently(task, obc)
    assert not network[0]._forward_hooks
