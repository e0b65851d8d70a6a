"""What variants share changes none of them."""

import pytest
import torch
from torch import nn

from datamodules import Digits
from datamodules.views import normalise
from quantization import independent, methods, quantize, quantized_copy
from quantization.calibration import Calibration
from quantization.methods import METHODS
from quantization.quantize import quantize_network
from quantization.rounding.adaround import Settings
from quantization.shared import Shared
from quantization.variant import Variant

LOOP = Settings(iterations=3)
PLAIN = [f"{method}-w{bits}" for method in METHODS for bits in ("2", "1.58")]
NAMES = [
    *PLAIN,
    "adaround-w2-last8",
    "obc-w2-last32",
    "gptq-w2-last8",
    "nearest-w2-bn",
    "obc-w2-bn",
]
NAMES += ["adaround-w2-folded", "brecq-w2-folded", "brecq-w2-fisher", "obc-w2-sym"]
NAMES += ["adaround-w2-paper", "brecq-w2-paper", "obc-w2-paper", "obc-w2-heldout"]
NAMES += ["nearest-w2-noise", "obc-w2-heldout-zeros", "adaround-w2-paper-noise"]
NAMES += ["brecq-w2-noise", "brecq-w2-noise0.5", "gptq-w1.58-zeros"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.two = nn.Conv2d(4, 4, 1)

    def forward(self, features):
        return torch.relu(features + self.two(torch.relu(self.one(features))))


@pytest.fixture(scope="module", params=["blocks", "layers"])
def network(request):
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    middle = (Block(),) if request.param == "blocks" else (nn.Conv2d(4, 4, 3, padding=1),)
    return nn.Sequential(*stem, *middle, nn.Flatten(), nn.Linear(256, 10)).eval()


@pytest.fixture(scope="module")
def draw():
    """Draw the images of a variant: 272, so that only some of the places are looked at."""
    data = Digits()
    data.setup("fit")
    images = normalise(data.pool.images, data.mean, data.std)

    def draw(variant):
        indices = torch.arange(272) + 300 * (variant.calibration != "members")
        chosen = images[indices]
        augmented = lambda round: chosen.roll(round + 1, 3)  # noqa: E731
        rounds = 2 if variant.paper else 0
        return Calibration(chosen, augmented, indices, variant.calibration, 7, rounds)

    return draw


def content(made):
    """Everything but times: tensors by key, and what the record says of each layer."""
    quantized, record = made
    layers = [layer._replace(seconds=0.0) for layer in record.layers]
    return quantized.state_dict(), layers, record.variant, record.objective


@pytest.fixture(scope="module")
def alone(network, draw):
    return {
        name: content(
            quantize_network(network, variant := Variant.parse(name), draw(variant), loop=LOOP)
        )
        for name in NAMES
    }


@pytest.mark.parametrize(
    ("names", "space"), [(NAMES, 2**28), (NAMES[::-1], 5_000)], ids=["roomy", "narrow"]
)
def test_every_variant_is_bitwise_the_same_alone(network, draw, alone, names, space):
    shared = Shared(space)
    for name in names:
        variant = Variant.parse(name)
        made = quantize_network(network, variant, draw(variant), loop=LOOP, shared=shared)
        state, *rest = content(made)
        expected, *others = alone[name]
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state), name
        assert rest == others


def test_without_blocks_brecq_is_adaround_unless_it_weights_errors(network, alone):
    blocks = any(isinstance(module, Block) for module in network.modules())

    def equal(first, second):
        states = alone[first][0], alone[second][0]
        return all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    assert equal("adaround-w2", "brecq-w2") != blocks
    assert equal("adaround-w1.58", "brecq-w1.58") != blocks
    assert equal("adaround-w2-folded", "brecq-w2-folded") != blocks
    assert not equal("adaround-w2", "brecq-w2-fisher")
    assert Variant.parse("adaround-w2-paper").layerwise is None
    assert Variant.parse("brecq-w2-paper").layerwise is None
    assert Variant.parse("obc-w2").layerwise is None


def test_what_is_shared_is_made_once(network, draw, monkeypatch):
    counts = {"find_grid": 0, "_collect_grams": 0, "reconstruct": 0}

    def counted(module, name):
        real = getattr(module, name)

        def call(*arguments, **options):
            counts[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(quantized_copy, "find_grid")
    counted(independent, "_collect_grams")
    counted(methods, "reconstruct")
    modules = [*network.modules()]
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules)
    shared = Shared()
    for name in PLAIN:
        variant = Variant.parse(name)
        quantize_network(network, variant, draw(variant), shared=shared)
    blocks = any(isinstance(module, Block) for module in modules)
    assert counts == {
        "find_grid": 2 * layers,
        "_collect_grams": 1,
        "reconstruct": 6 if blocks else 4,  # by adaround, brecq and gptq
    }


@pytest.mark.parametrize("method", ["adaround", "brecq", "gptq", "nearest"])
def test_a_variant_and_its_controls_are_solved_once(network, draw, monkeypatch, method):
    solved, real = [], quantize.quantize_copy
    monkeypatch.setattr(
        quantize, "quantize_copy", lambda *given: solved.append(str(given[2])) or real(*given)
    )
    shared = Shared()
    for name in ("w2-noise", "w2", "w2-zeros", "w1.58", "w2-noise0.5", "w1.58-zeros"):
        variant = Variant.parse(f"{method}-{name}")
        quantize_network(network, variant, draw(variant), shared=shared)
    assert solved == [f"{method}-w2", f"{method}-w1.58"]


def test_values_are_kept_while_there_is_space():
    shared, made = Shared(space=100), []

    def once(key, numbers):
        def make():
            made.append(key)
            return {"tensors": (torch.zeros(numbers),)}

        return shared.once(key, make)

    first = once("a", 15)  # 60 bytes
    assert once("a", 15) is first
    once("b", 15)  # too large beside it
    once("b", 15)
    once("c", 10)
    once("c", 10)
    assert made == ["a", "b", "b", "c"]
