"""A new quantizer is one entry in METHODS: everything else follows from it."""

from functools import partial

import pytest
import torch
from torch import nn

from quantization.calibration import Calibration
from quantization.independent import quantize_independently
from quantization.launches import count_quantization
from quantization.methods import METHODS, Method, Paper, WithoutImages, quantize_in_order
from quantization.quantize import quantize_network
from quantization.rehearsal import check_network
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import dequantize, find_grid
from quantization.timing import cost_class, estimate_seconds
from quantization.variant import Variant, check_count, wanted
from quantization.variant_name import OPTIONS


def toward_zero(rows, grid):
    """Codes of the nearest value that is no larger in magnitude."""
    return ((rows / grid.scale).trunc() + grid.zero).clamp(0, grid.levels - 1).byte()


def dead_to_zero(rows, grid, gram):
    """Codes toward zero, and zero where the input is weaker than the mean over columns."""
    power = gram.diagonal(dim1=1, dim2=2)
    weak = (power < power.mean(1, keepdim=True)).repeat_interleave(len(rows) // len(gram), 0)
    return torch.where(weak, grid.zero, toward_zero(rows, grid))


TOYS = {
    "alone": Method("nothing at all", WithoutImages(toward_zero)),
    "independent": Method(
        "nothing at all", partial(quantize_independently, solve=dead_to_zero), sums_first=True
    ),
    "in-order": Method(
        "nothing at all",
        partial(quantize_in_order, solve=dead_to_zero),
        paper=Paper("nothing, as published", images=40, rounds=2, implies=frozenset({"bn"})),
        power=3,
    ),
}


@pytest.fixture(params=TOYS)
def toy(request, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOYS[request.param])
    return TOYS[request.param]


@pytest.fixture
def network(rng):
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    for layer in (network[0], network[4]):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng))
    return network


@pytest.fixture
def calibration(rng):
    images = torch.randn(48, 1, 8, 8, generator=rng) * torch.linspace(0.1, 2, 8)
    return Calibration(images, lambda number: images, torch.arange(48), "members", 0)


def test_a_toy_quantizes_a_network(toy, network, calibration):
    variant = Variant.parse("toy-w3-last4")
    assert str(variant) == "toy-w3-last4"
    check_network(network, variant, calibration.images, {})
    images = calibration if variant.calibrates else None
    quantized, record = quantize_network(network, variant, images)
    assert record.objective == "nothing at all"
    assert [layer.name for layer in record.layers] == record.units == ["0", "4"]
    rows = network[0].weight.flatten(1)
    grid = find_grid(rows, 3, symmetric=False)
    if toy.looks_at_images:
        patches = nn.functional.unfold(calibration.images, 3).transpose(1, 2).flatten(0, 1)
        expected = dead_to_zero(rows, grid, (patches.T @ patches)[None])
    else:
        expected = toward_zero(rows, grid)
    assert torch.equal(quantized.weights["0.weight"].codes, expected)
    values = dequantize(expected, grid).reshape(network[0].weight.shape)
    assert torch.equal(quantized.state_dict()["0.weight"], values)


def test_a_toys_name_options_and_images_follow_from_its_entry(toy):
    assert Variant.parse("toy-w2").calibrates is toy.looks_at_images
    assert Variant.parse("toy-w2-bn").estimates_bn
    with pytest.raises(ValueError, match="`-fisher` changes nothing for toy, only for brecq"):
        Variant.parse("toy-w2-fisher")
    with pytest.raises(ValueError, match=r"must be one of nearest, .*, gptq, toy, got `other`"):
        Variant.parse("other-w2")
    if toy.paper is None:
        with pytest.raises(ValueError, match="`-paper` changes nothing for toy"):
            Variant.parse("toy-w2-paper")
        return
    paper = Variant.parse("toy-w2-paper")
    assert (paper.objective, paper.estimates_bn) == ("nothing, as published", True)
    assert wanted(paper, 500, 0) == (40, 2)
    with pytest.raises(ValueError, match="needs at least 2 calibration images to estimate"):
        check_count(paper, 1)
    with pytest.raises(ValueError, match="`-paper` implies `-bn` here"):
        Variant.parse("toy-w2-paper-bn")


def test_a_toys_cost_is_estimated(toy, network, calibration):
    variant = Variant.parse("toy-w2")
    images = calibration if variant.calibrates else None
    assert 0 < estimate_seconds(network, variant, images) < 600
    assert cost_class(variant) == "toy"
    assert count_quantization(network, variant, images, {}) == (0, 0)


def test_the_papers_settings():
    """Those of arXiv:2512.15335; a loop's other constants are the defaults."""
    papers = {name: method.paper for name, method in METHODS.items() if method.paper}
    assert {name: (paper.images, paper.rounds) for name, paper in papers.items()} == {
        "adaround": (1024, None),
        "brecq": (1024, None),
        "obc": (2048, 10),
    }
    assert papers["adaround"].loop == Settings(regularisation=1e-3)
    assert papers["brecq"].loop == Settings(regularisation=1e-2)
    assert papers["obc"].loop is None


def test_the_suffixes_of_every_method_are_in_the_grammar():
    for method in METHODS.values():
        implied = method.paper.implies if method.paper else frozenset()
        assert method.suffixes | implied <= set(OPTIONS)
