import copy
import json
import re
import shlex

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lightning_modules.networks import build_network
from quantization.advice import leave_out
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizationRecord, layer_bits, weight_keys
from quantization.rounding.grid import LEVELS, dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.task import LayerRecord
from quantization.variant import Variant

VARIANTS = ["nearest-w8", "nearest-w4", "nearest-w3-sym", "nearest-w2", "nearest-w1.58"]


class Mixed(nn.Module):
    """A user's network: every kind of layer, a layer with two names, and other modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 4)
        self.conv1d = nn.Conv1d(2, 4, 3, groups=2)
        self.conv3d = nn.Conv3d(1, 2, 1)
        self.up = nn.ConvTranspose2d(2, 2, 2)
        self.shared = self.again = nn.Linear(4, 4)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)})


@pytest.mark.parametrize("name", VARIANTS)
def test_no_channel_has_more_values_than_its_bits_allow(name):
    network = build_network("resnet8", 10, 3, {})
    variant = Variant.parse(name)
    state = quantize_network(network, variant)[0].state_dict()
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 10  # stem, 3 blocks of 2, 2 shortcuts, head
    network.load_state_dict(state)
    for layer in layers:
        assert max(len(row.unique()) for row in layer.weight.flatten(1)) <= LEVELS[variant.bits]


def test_layers_match_grid_and_nearest_rounding():
    network = build_network("convnet", 10, 1, {})
    state = quantize_network(network, Variant.parse("nearest-w2-last8"))[0].state_dict()
    for key, bits in {"layer2.0.weight": 2, "fc.weight": 8}.items():
        rows = network.state_dict()[key].flatten(1)
        grid = find_grid(rows, bits, symmetric=False)
        expected = dequantize(nearest(rows, grid), grid).reshape(state[key].shape)
        assert torch.equal(state[key], expected)


def test_the_network_and_the_rest_are_unchanged():
    network = build_network("resnet8", 10, 3, {})
    before = copy.deepcopy(network.state_dict())
    quantized = quantize_network(network, Variant.parse("nearest-w2"))[0]
    after, state = network.state_dict(), quantized.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert state.keys() == before.keys()
    assert all(torch.equal(quantized.rest[key], before[key]) for key in quantized.rest)
    nn.init.zeros_(network.get_parameter("fc.bias"))  # training on must not reach the copy
    assert torch.equal(quantized.rest["fc.bias"], before["fc.bias"])


def test_layers_of_a_users_network_in_order_of_registration():
    assert layer_bits(Mixed(), Variant.parse("nearest-w2-last8")) == {
        "conv1d.weight": 2,
        "conv3d.weight": 2,
        "shared.weight": 2,
        "again.weight": 2,
        "block.conv.weight": 8,
    }


def test_a_users_network_round_trips():
    network = Mixed()
    quantized = quantize_network(network, Variant.parse("nearest-w2"))[0]
    network.load_state_dict(quantized.state_dict())
    assert torch.equal(network.shared.weight, quantized.weights["again.weight"].dequantize())
    assert "up.weight" in quantized.rest
    assert "embed.weight" in quantized.rest


def test_a_bare_layer_counts_as_a_network():
    assert layer_bits(nn.Linear(3, 2), Variant.parse("nearest-w4")) == {"weight": 4}
    assert quantize_network(nn.Linear(3, 2), Variant.parse("nearest-w4"))[0].weights.keys() == {
        "weight"
    }


def test_last_layer_gets_its_own_bits_and_their_default_grid():
    network = build_network("convnet", 10, 1, {})
    quantized = quantize_network(network, Variant.parse("nearest-w1.58-last4"))[0]
    grids = [weight.grid for weight in quantized.weights.values()]
    assert [grid.levels for grid in grids] == [3, 3, 3, 16]
    assert all((grid.zero == 1).all() for grid in grids[:-1])
    assert len(grids[-1].zero.unique()) > 1  # asymmetric


def test_channels_last_and_half_precision_change_nothing_but_their_rounding():
    network = build_network("convnet", 10, 3, {})
    variant = Variant.parse("nearest-w2")
    plain = quantize_network(network, variant)[0].state_dict()
    last = quantize_network(network.to(memory_format=torch.channels_last), variant)[0].state_dict()
    assert all(torch.equal(plain[key], last[key]) for key in plain)
    half = quantize_network(network.half(), variant)[0].weights
    rounded = quantize_network(network.half().float(), variant)[0].weights
    for key, weight in rounded.items():
        assert torch.equal(half[key].dequantize(), weight.dequantize())


def test_later_patterns_override_earlier_ones_and_last_overrides_all():
    network, variant = Mixed(), Variant.parse("nearest-w2-last8")
    bits = layer_bits(network, variant, {"conv*": 4, "conv3d": 32, "*conv": 3, "again": 1.58})
    assert list(bits.values()) == [4, 32, 2, 1.58, 8]
    assert list(layer_bits(network, Variant.parse("nearest-w2"), {"*": 3}).values()) == [3] * 5


def test_patterns_decide_grids_and_what_stays_at_full_precision():
    network = build_network("convnet", 10, 1, {})
    patterns = {"*": 4, "layer1*": 32, "fc": 1.58}
    quantized, record = quantize_network(network, Variant.parse("nearest-w2"), None, patterns)
    levels = {key: weight.grid.levels for key, weight in quantized.weights.items()}
    assert "layer1.0.weight" in quantized.rest
    assert levels.pop("fc.weight") == 3
    assert set(levels.values()) == {16}
    assert {layer.name: layer.bits for layer in record.layers}["fc"] == 1.58


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            {"layer9*": 4},
            r"has `layer9\*`, which matches no layer of Sequential. It has conv1, ",
        ),
        ({"fc": 5}, "must give `fc` one of 8, 4, 3, 2, 1.58 bits, or 32 .* got 5"),
        ({"fc": 16}, "one of .* got 16"),
    ],
)
def test_invalid_patterns_are_refused_with_a_reason(patterns, message):
    with pytest.raises(ValueError, match=message):
        layer_bits(build_network("resnet8", 10, 1, {}), Variant.parse("nearest-w2"), patterns)


@pytest.mark.parametrize("network", [nn.Sequential(), nn.BatchNorm2d(3)])
def test_a_network_without_layers_is_refused(network):
    kind = type(network).__name__
    with pytest.raises(ValueError, match=f"Nothing to quantize: {kind} has no .* Linear"):
        quantize_network(network, Variant.parse("nearest-w4"))


def test_a_diverged_layer_is_named():
    network = build_network("resnet8", 10, 3, {})
    nn.init.constant_(network.get_parameter("layer2.0.conv1.weight"), torch.nan)
    with pytest.raises(ValueError, match=r"`layer2.0.conv1.weight`: 4608 of 4608 .* not finite"):
        quantize_network(network, Variant.parse("nearest-w4"))


def test_computed_weights_are_named_and_may_stay():
    layers = [weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2), spectral_norm(nn.Linear(2, 2))]
    network, variant = nn.Sequential(*layers).eval(), Variant.parse("nearest-w4")
    with pytest.raises(ValueError, match="`0`, `2`: computed from other") as error:
        layer_bits(network, variant)
    (way_out,) = re.findall(r"--layer_bits '(.*)'`", str(error.value))
    patterns = json.loads(way_out)
    assert layer_bits(network, variant, patterns) == {"1.weight": 4}
    quantized, _ = quantize_network(network, variant, patterns=patterns)
    assert list(quantized.weights) == ["1.weight"]
    assert set(quantized.state_dict()) == set(network.state_dict())


def test_weights_that_are_no_real_numbers_are_named():
    empty = nn.Linear(2, 2)
    empty.weight = nn.Parameter(torch.empty(0, 2))
    layers = [empty, nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.complex64)]
    network, variant = nn.Sequential(*layers), Variant.parse("nearest-w4")
    said = r"`0`: empty, of shape \(0, 2\); `2`: of type complex64. .* '{\"0\": 32, \"2\": 32}'"
    with pytest.raises(ValueError, match=said):
        layer_bits(network, variant)


@pytest.mark.parametrize("name", ["[x]", "it's", "größe", "a*"])
def test_the_pattern_that_is_advised_matches_a_layer_of_any_name(name):
    network = nn.Sequential(nn.ModuleDict({name: nn.Linear(2, 2), "x": nn.Linear(2, 2)}))
    advice = leave_out([f"0.{name}"], weight_keys(network))
    option, bits = shlex.split(advice.partition("`")[2].removesuffix("`"))
    assert option == "--layer_bits"
    found = layer_bits(network, Variant.parse("nearest-w4"), json.loads(bits))
    assert found == {f"0.{name}.weight": 32, "0.x.weight": 4}


def test_a_record_as_json_by_hand():
    variant = Variant.parse("brecq-w1.58-last8-heldout")
    layer = LayerRecord("block.conv", "block", 1.58, 72, 0.25, 0.5, 0.125, 1.5)
    record = QuantizationRecord(variant, "what was minimised", [layer], 2.5)
    images = torch.zeros(3, 1, 2, 2)
    calibration = Calibration(
        images, lambda number: images, torch.tensor([4, 0, 7]), "heldout", seed=1, rounds=2
    )
    expected = {
        "variant": "brecq-w1.58-last8-heldout",
        "objective": "what was minimised",
        "calibration": {"source": "heldout", "images": 3, "indices": [4, 0, 7]},
        "units": ["block"],
        "layers": [
            {
                "name": "block.conv",
                "unit": "block",
                "bits": 1.58,
                "weights": 72,
                "flipped": 0.25,
                "error_before": 0.5,
                "error_after": 0.125,
                "seconds": 1.5,
            }
        ],
        "seconds": 2.5,
    }
    assert json.loads(json.dumps(record.as_json(calibration))) == expected
    assert record.as_json(None) == expected | {"calibration": None}
