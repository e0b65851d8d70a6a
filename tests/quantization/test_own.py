"""A user's own rounding of layers: an entry like ours, and every mistake in one."""

import pytest
import torch
from torch import nn

from quantization.calibration import Calibration
from quantization.methods import METHODS
from quantization.own import find_method, load_own
from quantization.quantize import quantize_network
from quantization.rehearsal import check_network, check_variants
from quantization.rounding.gptq import gptq
from quantization.rounding.grid import find_grid
from quantization.rounding.nearest import nearest
from quantization.timing import estimate_seconds
from quantization.variant import Variant


def plain(weight, grid):
    return nearest(weight, grid)


def by_inputs(weight, grid, gram):
    return gptq(weight, grid, gram)


@pytest.fixture
def make(monkeypatch, forget_own):
    """A variant whose method is a function, found under the path `mine.own`."""

    def make(function, suffixes="-w2"):
        monkeypatch.setattr("quantization.own.imported", lambda *_: function)
        forget_own()
        return Variant.parse(f"mine.own{suffixes}")

    return make


@pytest.fixture
def network(rng):
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), depthwise, nn.Flatten()
    network = nn.Sequential(*layers, nn.Linear(64, 5)).eval().requires_grad_(False)
    for position in (0, 3, 5):
        weight = network[position].weight
        weight.copy_(torch.randn(weight.shape, generator=rng))
    return network


@pytest.fixture
def calibration(rng):
    images = torch.randn(48, 1, 8, 8, generator=rng)
    return Calibration(images, lambda number: images, torch.arange(48), "members", 0)


@pytest.mark.parametrize("suffixes", ["-w2", "-w4-sym-last8", "-w1.58-bn", "-w2-bn-nonmembers"])
@pytest.mark.parametrize(("own", "ours"), [(plain, "nearest"), (by_inputs, "gptq")])
def test_our_rounding_as_a_users_gives_the_same_network(
    make, network, calibration, own, ours, suffixes
):
    variants = make(own, suffixes), Variant.parse(f"{ours}{suffixes}")
    states = []
    for variant in variants:
        check_network(network, variant, calibration.images[:2], {})
        images = calibration if variant.calibrates else None
        quantized, record = quantize_network(network, variant, images)
        assert [layer.name for layer in record.layers] == ["0", "3", "5"]
        states.append(quantized.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert variants[0].calibrates == variants[1].calibrates
    assert str(variants[0]) == f"mine.own{suffixes}"


def test_what_is_minimised_is_named_by_the_path(make, network, calibration):
    assert make(plain).objective == "by mine.own, each layer's weights alone"
    variant = make(by_inputs)
    assert variant.objective == "by mine.own, each layer on quantized inputs"
    assert 0 < estimate_seconds(network, variant, calibration) < 60


def test_a_rounding_for_some_bits_alone_is_tried_with_no_others(make, network, calibration):
    def sixteen(weight, grid):
        assert grid.levels == 16
        return nearest(weight, grid)

    check_network(network, make(sixteen, "-w4"), calibration.images[:2], {})
    check_variants(network, [make(sixteen, "-w4")], calibration.images[:2], {})
    with pytest.raises(ValueError, match=r"must run on a layer of \[6, 9\] \(AssertionError"):
        make(sixteen, "-w4-last8")


def test_suffixes_that_make_no_difference_are_refused(make):
    with pytest.raises(ValueError, match=r"mine\.own looks at no images; remove `-heldout`"):
        make(plain, "-w2-heldout")
    with pytest.raises(ValueError, match=r"`-paper` changes nothing for mine\.own"):
        make(by_inputs, "-w2-paper")


def test_names_without_a_dot_are_ours():
    assert find_method("obc") is METHODS["obc"]
    with pytest.raises(ValueError, match=r"one of nearest, .*, got `mine`\. Name your own by its"):
        Variant.parse("mine-w2")
    with pytest.raises(ValueError, match=r"`nowhere_at_all\.own` cannot be imported .Module"):
        Variant.parse("nowhere_at_all.own-w2")


def other_names(w, grid):
    return w


def floats(weight, grid):
    return weight


def flat(weight, grid):
    return nearest(weight, grid).flatten()


def beyond(weight, grid):
    return torch.full(weight.shape, grid.levels, dtype=torch.uint8)


def numbers(weight, grid, gram):
    return nearest(weight, grid).tolist()


def in_place(weight, grid):
    return nearest(weight.mul_(2), grid)


def on_the_gram(weight, grid, gram):
    gram.diagonal(dim1=1, dim2=2).add_(1)
    return nearest(weight, grid)


def random(weight, grid):
    return (torch.rand(weight.shape) < 0.5).byte()


def with_defaults(weight, grid, step=0.5, *, share=1.0, **further):
    return nearest(weight, grid)


def with_gradients(weight, grid):
    offset = torch.zeros_like(weight, requires_grad=True)
    (weight + offset).square().sum().backward()
    return nearest(weight - 0 * offset.grad, grid)


@pytest.mark.parametrize("rounding", [with_defaults, with_gradients])
def test_a_rounding_may_have_defaults_and_learn(make, rounding):
    variant, weight = make(rounding), torch.randn(3, 5)
    grid = find_grid(weight, variant.bits, symmetric=False)
    with torch.no_grad():
        codes = load_own("mine.own").rounding(weight, grid)
    assert torch.equal(codes, nearest(weight, grid))


def keyword_only(weight, *, grid):
    return nearest(weight, grid)


def quits(weight, grid):
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("rounding", "message"),
    [
        (keyword_only, r"takes \(weight, \*, grid\)\."),
        (quits, r"must run on a layer of \[6, 9\] \(SystemExit: 0, .*:\d+"),
        (other_names, r"takes \(w, grid\)\."),
        (floats, r"must return uint8 codes \[6, 9\] from 0 to 3, got \[6, 9\] of torch.float32"),
        (flat, r"must return uint8 codes \[6, 9\] from 0 to 3, got \[54\] of torch.uint8"),
        (beyond, r"must return uint8 codes \[6, 9\] from 0 to 3, got 4\."),
        (numbers, r"must return uint8 codes \[6, 9\] from 0 to 3, got list"),
        (in_place, "must leave its arguments as they are: work on a copy"),
        (on_the_gram, "must leave its arguments as they are: work on a copy"),
        (random, "must give the same codes twice: draw from a torch.Generator with a fixed seed"),
        (lambda weight, grid: weight[7], r"must run on a layer of \[6, 9\] \(IndexError: .*:\d+"),
    ],
)
def test_what_is_no_rounding_is_refused_with_the_signatures(make, rounding, message):
    with pytest.raises(ValueError, match=f"`--quantize`: `mine.own` {message}") as error:
        make(rounding)
    assert "Expected is rounding(weight, grid) or rounding(weight, grid, gram)" in str(error.value)
    assert "\n" not in str(error.value)
