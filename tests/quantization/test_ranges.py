"""Networks that compute with quantized activations, against the same computation written out."""

import copy

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from lightning_modules.networks import build_network
from quantization.activations import fake_quantize, find_range
from quantization.calibration import Calibration, DivergedError
from quantization.quantize import quantize_network
from quantization.ranges import NODES, Counted, find_ranges, quantize_activations
from quantization.rehearsal import check_network, check_variants
from quantization.shared import Shared
from quantization.variant import Variant


class Net(nn.Module):
    """A residual block of depthwise and pointwise convolutions, with BatchNorm or without."""

    def __init__(self, norm=True):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.deep, self.point = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.fc = nn.Linear(4 * 9, 3)

    def forward(self, images):
        x = relu(self.norm(self.stem(images)))
        x = x + self.point(relu(self.deep(x)))
        return self.fc(avg_pool2d(x, 2).flatten(1))


def calibration_of(images, seed=0):
    return Calibration(images, lambda _: images, torch.arange(len(images)), "members", seed)


@pytest.fixture
def images(rng):
    return torch.randn(40, 1, 6, 6, generator=rng)


@pytest.fixture
def network(images):
    """A network with statistics of its own in BatchNorm."""
    network = Net()
    network(3 * images + 1)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_ranges_and_logits_are_those_of_the_computation_written_out(network, images, bits):
    weights = [f"{name}.weight" for name in ("stem", "deep", "point", "fc")]
    ranges = find_ranges(network, network.state_dict(), weights, images, bits)

    def forward(q):
        x = relu(network.norm(network.stem(q("stem", images))))
        y = network.point(q("point", relu(network.deep(q("deep", x)))))
        x = q("addition-0.left", x) + q("addition-0.right", y)
        return network.fc(q("fc", avg_pool2d(q("pool-1", x), 2).flatten(1)))

    values = {}
    plain = forward(lambda site, value: values.setdefault(site, value))
    assert torch.equal(plain, network(images))
    assert ranges.keys() == values.keys()
    for site, value in values.items():
        exact = find_range(value.flatten(), bits)
        errors = [
            (fake_quantize(value, g) - value).abs().pow(2.4).sum() for g in (ranges[site], exact)
        ]
        assert errors[0] <= 1.01 * errors[1]  # counted at 32 places per step of 8 bits
    assert ranges["deep"] == ranges["addition-0.left"]
    expected = forward(lambda site, value: fake_quantize(value, ranges[site]))
    assert torch.equal(quantize_activations(copy.deepcopy(network), ranges)(images), expected)
    assert torch.equal(network(images), plain)
    assert not torch.equal(expected, plain)


@pytest.mark.parametrize("name", ["nearest-w8-a8", "adaround-w4-a8", "obc-w4-a4", "brecq-w2-a8-bn"])
@pytest.mark.parametrize("norm", [True, False])
def test_the_weights_are_those_of_the_variant_without_activations(images, name, norm):
    if "bn" in name and not norm:
        return
    network = Net(norm)
    network(images)
    network.eval()
    variant, calibration = Variant.parse(name), calibration_of(images)
    shared, plain = Shared(), variant.weights_name.replace("w8", "w8-sym")
    one = quantize_network(network, variant, calibration, shared=shared)[0]
    other = quantize_network(network, Variant.parse(plain), calibration, shared=shared)[0]
    alone, record = quantize_network(network, variant, calibration)
    assert one.variant == alone.variant == variant
    assert str(other.variant) == plain
    assert one.activations == alone.activations == record.activations
    assert not other.activations
    for key, weight in other.weights.items():
        assert torch.equal(weight.codes, one.weights[key].codes)
        assert torch.equal(weight.codes, alone.weights[key].codes)
    assert record.as_json(None)["activations"]["fc"]["levels"] == 2**variant.activation_bits


def test_eight_bits_hardly_change_logits_and_four_change_them_more(network, images):
    logits = network(images)
    errors = {}
    for bits in (8, 4):
        made = quantize_network(
            network, Variant.parse(f"nearest-w8-a{bits}"), calibration_of(images)
        )[0]
        deployed = copy.deepcopy(network)
        deployed.load_state_dict(made.state_dict())
        with torch.no_grad():
            quantized = quantize_activations(deployed, made.activations)(images)
        errors[bits] = ((quantized - logits).square().sum() / logits.square().sum()).item()
    assert errors[8] < 1e-3
    assert errors[8] < errors[4] / 30  # steps are 17 times as long, squared errors 289 times


def test_counts_are_those_of_numpy(rng):
    for values in (torch.randn(5000, generator=rng), torch.randn(5000, generator=rng).relu() ** 3):
        counted = Counted()
        for part in values.split(999):
            counted.widen(part)
        for part in values.split(999):
            counted.count(part)
        ends = min(values.min().item(), 0.0), values.max().item()
        width = (ends[1] - ends[0]) / NODES
        edges = numpy.linspace(ends[0] - width / 2, ends[1] + width / 2, NODES + 2)
        expected = numpy.histogram(values.numpy(), edges)[0]
        assert counted.counts.sum() == len(values)
        # float32 may put a value that lies half-way into the next bin
        assert abs(counted.counts.numpy() - expected).sum() <= 10


def test_the_largest_values_count(rng):
    """Of 200,000 values, where a sample would miss them."""
    values = torch.randn(200_000, generator=rng).relu() ** 3
    counted = Counted()
    counted.widen(values)
    counted.count(values)
    errors = [
        (fake_quantize(values, grid) - values).abs().pow(2.4).sum()
        for grid in (counted.find_range(8), find_range(values, 8))
    ]
    assert errors[0] <= 1.01 * errors[1]


class Dead(nn.Module):
    """A layer of which nothing is left behind the activation, and one that is given nothing."""

    def __init__(self, empty=False):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.empty = empty
        with torch.no_grad():
            self.one.bias.fill_(-1e3)

    def forward(self, x):
        nothing = self.three(x[:, :0]).sum(1) if self.empty else 0
        return self.two(relu(self.one(x)))[:, 0] + nothing


def test_constant_activations_are_right(rng):
    network, x = Dead().eval(), torch.randn(8, 4, generator=rng)
    ranges = find_ranges(network, network.state_dict(), ["one.weight", "two.weight"], x, 8)
    assert ranges["two"] == (1.0, 0, 256)
    assert torch.equal(quantize_activations(network, ranges)(x), network.two.bias[:1].expand(8))


def test_empty_activations_are_refused_before_training(rng):
    x = torch.randn(8, 2, 4, generator=rng)
    with pytest.raises(ValueError, match="`three`: An activation without values has no range"):
        check_network(Dead(empty=True), Variant.parse("nearest-w8-a8"), x, {})


def test_activations_that_are_not_finite_are_a_training_that_diverged(network, images):
    with torch.no_grad():
        network.deep.bias[0] = torch.inf
    variant = Variant.parse("nearest-w8-a8")
    with pytest.raises(DivergedError, match="`point` is given values that are not finite"):
        quantize_network(network, variant, calibration_of(images))
    with pytest.raises(ValueError, match="`nearest-w8-a8` cannot quantize Net, which gives values"):
        check_network(network, variant, images, {})


def test_a_rehearsal_tries_activations_too(images):
    network = nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(36, 2, 8, batch_first=True))
    tokens = images.flatten(2)
    variants = [Variant.parse(name) for name in ("nearest-w4", "nearest-w4-a8")]
    network = nn.Sequential(nn.Identity(), nn.TransformerEncoderLayer(36, 2, 8, batch_first=True))
    check_variants(network, variants[:1], tokens, {})
    with pytest.raises(ValueError, match=r"MultiheadAttention multiplies `1.self_attn.in_proj`"):
        check_variants(network, variants, tokens, {})
    check_variants(network, variants, tokens, {"*.self_attn.*": 32})


@pytest.mark.parametrize("name", ["resnet8", "convnet", "mlp", "resnet8_gn", "wide_resnet28_2"])
def test_no_batch_and_any_batch_are_right(name, rng):
    network = build_network(name, 10, 1, {}, (1, 8, 8)).eval()
    images = torch.randn(6, 1, 8, 8, generator=rng)
    variant = Variant.parse("nearest-w8-a8")
    made = quantize_network(network, variant, calibration_of(images))[0]
    network.load_state_dict(made.state_dict())
    quantize_activations(network, made.activations)
    with torch.inference_mode():
        logits = network(images)
        assert network(images[:0]).shape == (0, 10)
        assert torch.allclose(torch.cat([network(part) for part in images.split(4)]), logits, 0.1)
    with pytest.raises(ValueError, match=r"`nearest-w8-a8` needs at least 1 calibration images"):
        quantize_network(network, variant, calibration_of(images[:0]))
