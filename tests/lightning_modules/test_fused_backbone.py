import copy

import pytest
import torch
from torch import nn

from lightning_modules.fused_backbone import FusedBackbone
from lightning_modules.headed import behead
from lightning_modules.networks import build_network
from quantization.calibration import CHUNK, Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant


@pytest.fixture(params=["resnet8", "convnet", "mlp"])
def backbone(request):
    arguments = {"widths": [7, 5]} if request.param == "mlp" else {}
    network = build_network(request.param, 10, 3, arguments, (3, 8, 8)).eval()
    return behead(network, (3, 8, 8)).backbone.eval()


def test_features_are_the_standardised_averages_of_each_stage(backbone):
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(20, 3, 8, 8, generator=draws)
    with torch.no_grad():
        values, averages = images, []
        for name, layer in backbone.named_children():  # our networks are sequences
            values = layer(values)
            if name.startswith("layer"):
                flat = values.flatten(2).mean(2) if values.ndim > 2 else values
                averages.append(flat.clone())
        raw = torch.cat(averages, 1)
        fused = FusedBackbone(backbone, (3, 8, 8)).eval()
        torch.testing.assert_close(fused(images), raw)
        fused.standardise(images.split(6))
        deviation = raw.std(0, correction=0)
        deviation[deviation < 1e-5] = 1
        torch.testing.assert_close(fused(images), (raw - raw.mean(0)) / deviation)
        clone = copy.deepcopy(fused)
        torch.testing.assert_close(clone(images), fused(images), rtol=0, atol=0)
    assert len(fused.mean) == raw.shape[1]


def test_building_it_changes_no_statistics():
    network = build_network("resnet8", 10, 3, {}, (3, 8, 8)).train()
    inner = behead(network, (3, 8, 8)).backbone
    before = copy.deepcopy(inner.state_dict())
    FusedBackbone(inner, (3, 8, 8))
    assert inner.training
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())


def test_a_network_without_stages_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"called `layer1`.*Sequential has none.*fusion false"):
        FusedBackbone(network, (3, 2, 2))


@pytest.mark.parametrize("name", ["adaround-w4", "gptq-w4"])
def test_passes_that_take_turns_keep_their_own_averages(backbone, name):
    """A quantizer suspends the passes of its chunks at each layer."""
    network = nn.Sequential(FusedBackbone(backbone, (3, 8, 8)).eval(), nn.LazyLinear(4)).eval()
    images = torch.randn(2 * CHUNK, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network(images)
    calibration = Calibration(images, lambda _: images, torch.arange(len(images)), "members", 0, 0)
    quantized, record = quantize_network(network, Variant.parse(name), calibration)
    assert {layer.name for layer in record.layers} >= {"1"}
    rounded = copy.deepcopy(network)
    rounded.load_state_dict(quantized.state_dict())
    with torch.no_grad():
        error = (rounded(images) - wanted).square().sum() / wanted.square().sum()
    assert error < 0.05  # passes that took one another's averages failed, or were far off
