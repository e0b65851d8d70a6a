import math

import pytest
import torch
from torch import nn

from lightning_modules.networks import build_network
from quantization import timing
from quantization.calibration import Calibration
from quantization.mixed_options import MixedOptions
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizationRecord
from quantization.task import LayerRecord
from quantization.timing import cost_class, estimate_search, estimate_seconds
from quantization.variant import UNQUANTIZED, Variant
from storage.weights import save_quantized, stored_bytes


@pytest.fixture
def calibration(rng):
    images = torch.randn(128, 3, 8, 8, generator=rng)
    return Calibration(images, lambda _: images, torch.arange(128), "members", 0, 3)


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("nearest-w2", {}),
        ("nearest-w1.58-last8", {"layer1.*": 4}),
        ("nearest-w3-last32", {}),
        ("brecq-w4-folded", {"layer2.*": UNQUANTIZED}),
        ("nearest-w2-noise", {}),
        ("adaround-w1.58-last32-zeros", {"layer2.*": UNQUANTIZED}),
    ],
)
def test_stored_bytes_are_those_of_the_file(name, patterns, calibration, tmp_path):
    network, variant = build_network("convnet", 10, 3, {}), Variant.parse(name)
    images = calibration if variant.calibrates else None
    save_quantized(tmp_path / "file", quantize_network(network, variant, images, patterns)[0])
    assert stored_bytes(network, variant, patterns) == (tmp_path / "file").stat().st_size


def test_bits_and_images_do_not_change_the_cost_class():
    alike = {"obc-w4-bn", "obc-w1.58-asym-last8-bn-heldout"}
    assert {cost_class(Variant.parse(name)) for name in alike} == {"obc-bn"}
    assert cost_class(Variant.parse("obc-w4")) == "obc"


@pytest.fixture
def clockwork(monkeypatch):
    """Quantizations whose times follow a law, and the law's prediction for one layer.

    Seconds: 0.25 for the grid search, 0.5 per image, and r c^power / 1e6 for each layer of r rows
    and c columns, times the number of images up to 256 if the layer's time grows with them.
    """

    def make(power, grows):
        def layer(rows, columns, images):
            return rows * columns**power / 1e6 * (min(images, 256) if grows else 1)

        def record(variant, seconds, layers=()):
            return None, QuantizationRecord(variant, "", [*layers], seconds)

        def quantize(network, variant, calibration=None, patterns=None, loop=None):
            if calibration is None:
                return record(variant, 0.25)
            images = len(calibration.images)
            if loop is not None:
                return record(variant, 3 + 0.5 * loop.iterations)
            layers = [
                LayerRecord(name, name, 2, 1, 0.0, None, None, layer(*shape, images))
                for name, shape in timing._shapes(network, variant, patterns).items()
            ]
            return record(variant, 0.5 * images + sum(r.seconds for r in layers), layers)

        monkeypatch.setattr(timing, "quantize_network", quantize)
        return layer

    return make


SHAPES = [(16, 27), (32, 144), (64, 288), (10, 64)]  # layers of `convnet`


@pytest.mark.parametrize("largest", [math.inf, 32 * 144**2, 1])
@pytest.mark.parametrize(
    ("name", "power", "grows"), [("adaround-w2", 2, True), ("obc-w2", 3, False)]
)
def test_a_trial_recovers_the_law(name, power, grows, largest, clockwork, calibration, monkeypatch):
    monkeypatch.setattr(timing, "LARGEST", largest)
    layer = clockwork(power, grows)
    network = build_network("convnet", 10, 3, {})
    expected = 0.25 + 0.5 * 384 + sum(layer(*shape, 384) for shape in SHAPES)
    seconds = estimate_seconds(network, Variant.parse(name), calibration)
    assert seconds == pytest.approx(expected)


def test_layers_of_the_same_shape_are_tried_once(clockwork, calibration, monkeypatch):
    layer = clockwork(2, True)
    network = build_network("resnet20", 10, 3, {})
    shapes = timing._shapes(network, Variant.parse("gptq-w2"), {})
    tried = timing._choose(shapes)
    assert len(tried) == len(set(shapes.values())) == 9
    seconds = estimate_seconds(network, Variant.parse("gptq-w2"), calibration)
    expected = 0.25 + 0.5 * 384 + sum(layer(*shape, 384) for shape in shapes.values())
    assert seconds == pytest.approx(expected)


def test_a_published_loop_is_extrapolated_over_its_steps(clockwork, calibration):
    clockwork(2, True)
    network = build_network("convnet", 10, 3, {})
    seconds = estimate_seconds(network, Variant.parse("brecq-w2-paper"), calibration)
    assert seconds == pytest.approx(3 + 0.5 * 20_000)
    assert estimate_seconds(network, Variant.parse("nearest-w2"), None) == 0.25


@pytest.mark.parametrize("name", ["adaround-w2-paper", "obc-w2-paper", "nearest-w2-bn", "gptq-w2"])
def test_every_kind_of_method_can_be_tried(name, calibration):
    network = build_network("convnet", 10, 3, {})
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert 0 < estimate_seconds(network, Variant.parse(name), calibration) < 3600
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)


class Tokens(nn.Module):
    """Attention, and a layer whose weight is passed to a function, on the rows of an image."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.BatchNorm2d(3), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        tokens = self.norm(images).unflatten(3, (-1, 8)).flatten(1, 3)
        tokens = self.attention(tokens, tokens, tokens)[0]
        return nn.functional.linear(tokens, self.fc.weight).mean(1)


def test_the_work_of_layers_that_a_network_does_not_call(calibration):
    """Places times columns^2: each of 24 tokens of 8 numbers is multiplied once per layer."""
    images = calibration.images
    shapes = {"attention.in_proj": (24, 8), "attention.out_proj": (8, 8), "fc": (5, 8)}
    assert timing._shapes(Tokens(), Variant.parse("obc-w2"), {}) == shapes
    work = timing._gram_work(Tokens(), images, shapes)
    assert work == dict.fromkeys(shapes, 24 * 8**2)
    assert 0 < estimate_seconds(Tokens(), Variant.parse("obc-w2-paper"), calibration) < 3600


def test_a_search_costs_a_solution_per_width_and_is_estimated_without_one(monkeypatch):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.randn(40, 1, 8, 8)
    calibration = Calibration(images, lambda _: images, torch.arange(40), "members", 0)
    monkeypatch.setattr("quantization.quantize.choose_bits", lambda *_: pytest.fail("searched"))
    variant = Variant.parse("adaround-mix4-sym-last8")
    assert estimate_seconds(network, variant, calibration) > 0
    seconds = [
        estimate_search(network, variant, calibration, {}, MixedOptions(candidates=widths), 100.0)
        for widths in ((8, 4), (8, 4, 3, 2, 1.58, 32))
    ]
    assert [round(s, -2) for s in seconds] == [200, 500]
