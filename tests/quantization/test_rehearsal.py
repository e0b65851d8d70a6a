"""What would fail after training fails in the rehearsal, in one line."""

import pytest
import torch
from torch import nn

from quantization.calibration import Calibration
from quantization.mixed_options import MixedOptions
from quantization.quantize import quantize_network
from quantization.quantized_copy import quantize_copy
from quantization.rehearsal import check_network, check_variants
from quantization.variant import Variant

NAMES = [
    "nearest-w4",
    "adaround-w2",
    "adaround-w2-paper",
    "brecq-w2-fisher",
    "brecq-w2-last32",
    "obc-w1.58",
    "obc-w2-paper",
    "gptq-w3",
    "adaround-w2-folded",
    "nearest-w2-bn",
]


class Net(nn.Module):
    """A residual block between two layers; `use` is how the network calls them."""

    def __init__(self, use):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.use = nn.Linear(4, 3), use

    def block(self, x):
        return x + self.two(self.one(x).relu())

    def forward(self, images):
        return self.use(self, self.norm(self.stem(images)))


@pytest.fixture
def images(rng):
    return torch.randn(2, 1, 6, 6, generator=rng)


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_network_passes_and_stays_as_it_is(images, name):
    network = Net(lambda net, x: net.fc(net.block(x).mean((2, 3))))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    check_network(network, Variant.parse(name), images, {})
    assert network.training
    after = network.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.fc(net.block(x).mean((2, 3))).float()


class Halves(torch.autograd.Function):
    """A user's own operation that cannot go back."""

    @staticmethod
    def forward(context, x):
        return x / 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.two(Halves.apply(self.one(x)))


def without_gradient():
    network = Net(lambda net, x: net.fc(net.residual(x).mean((2, 3))))
    network.residual = Block()
    network.one, network.two = nn.Identity(), nn.Identity()
    return network


def not_finite(net, x):
    return net.fc(net.block(x / 0).mean((2, 3)))


FAULTS = {
    "autocast": (lambda: Net(autocast), "adaround-w2", r"`one` is called under autocast.*`obc`"),
    "no gradient": (
        without_gradient,
        "brecq-w2",
        r"`residual` cannot be fitted by its output: \w+Error: .*backward"
        r".*'\{\"residual.\*\": 32\}'`, or use `nearest` or `obc`",
    ),
    "not finite": (
        lambda: Net(not_finite),
        "obc-w2",
        "`obc-w2` cannot quantize Net, which gives values that are not finite before any training",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_would_fail_after_training_fails_at_once(images, name):
    make, variant, message = FAULTS[name]
    network = make().eval()
    with pytest.raises(ValueError, match=message) as caught:
        check_network(network, Variant.parse(variant), images, {})
    assert "\n" not in str(caught.value)


def test_errors_of_a_library_become_lines(images):
    network = Net(lambda net, x: net.fc(net.block(x).mean((2, 3))))
    network.doubled = network.fc.weight * 2  # which cannot be copied
    with pytest.raises(
        ValueError, match=r"`nearest-w2` cannot quantize Net: RuntimeError: Only .* Change"
    ):
        check_network(network, Variant.parse("nearest-w2"), images, {})


def test_variants_that_differ_in_bits_alone_are_rehearsed_once(images, monkeypatch):
    seen = []

    def count(network, bits, variant, *rest, **options):
        seen.append(str(variant))
        return quantize_copy(network, bits, variant, *rest, **options)

    monkeypatch.setattr("quantization.rehearsal.quantize_copy", count)
    network = Net(lambda net, x: net.fc(net.block(x).mean((2, 3))))
    names = ["obc-w4", "obc-w2", "obc-w2-last32", "obc-w1.58-bn", "gptq-w2-sym", "gptq-w3-last8"]
    check_variants(network, map(Variant.parse, names), images, {})
    assert seen == ["obc-w4", "obc-w2-last32", "obc-w1.58-bn", "gptq-w2-sym"]
    with pytest.raises(ValueError, match="which matches no layer"):
        check_variants(network, map(Variant.parse, names), images, {"no": 4})


class Keywords(nn.Module):
    """Layers whose input is given by keyword, or by position."""

    def __init__(self, by_keyword):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        self.by_keyword = by_keyword

    def forward(self, images):
        if self.by_keyword:
            return self.fc(input=self.conv(input=images).relu().mean((2, 3)))
        return self.fc(self.conv(images).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["adaround-w2", "brecq-w2-fisher", "obc-w2", "gptq-w2"])
def test_inputs_given_by_keyword_are_inputs(rng, name):
    images = torch.randn(30, 1, 6, 6, generator=rng)
    calibration = Calibration(images, lambda _: images, torch.arange(30), "members", 0)
    plain, keyword = Keywords(False).eval(), Keywords(True).eval()
    keyword.load_state_dict(plain.state_dict())
    variant = Variant.parse(name)
    check_network(keyword, variant, images[:2], {})
    expected, _ = quantize_network(plain, variant, calibration)
    found, _ = quantize_network(keyword, variant, calibration)
    for key, weight in expected.weights.items():
        assert torch.equal(found.weights[key].codes, weight.codes)


def test_a_budget_that_no_network_of_these_layers_meets_is_refused_with_the_others():
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.randn(2, 1, 8, 8)
    names = ["nearest-w2", "nearest-mix2"]
    with pytest.raises(ValueError, match=r"`nearest-mix2`: .* take at least 2\.25 bits each"):
        check_variants(network, map(Variant.parse, names), images, {})
    check_variants(network, [Variant.parse("nearest-mix2.3")], images, {})
    options = MixedOptions(candidates=(8, 4))
    with pytest.raises(ValueError, match=r"take at least 4\.625 bits each"):
        check_variants(network, [Variant.parse("nearest-mix2.3")], images, {}, options)
