import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_modules.networks import NETWORKS, build_network
from quantization.cost import count_layers, network_cost, weight_bytes
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizedNetwork
from quantization.rounding.grid import LEVELS, Grid
from quantization.rounding.pack import pack
from quantization.variant import Variant

IMAGE = torch.zeros(1, 3, 32, 32)


def aiq(network, bits=None, shortcuts=32, **options):
    """The authors' count, in which projection shortcuts stay at full precision."""
    layers = count_layers(network, IMAGE)
    own = {k: shortcuts if "downsample" in k else bits or 32 for k in layers}
    return network_cost(layers, own, counting="aiq", **options)


def test_the_published_figures_of_a_resnet20():
    network = build_network("resnet20", 10, 3, {})
    full = aiq(network)
    assert full.flops == 81_626_368
    assert full.bytes == 2_734_608
    assert full.intensity == pytest.approx(29.849, abs=5e-4)
    assert aiq(network, 8).intensity == pytest.approx(42.30, abs=5e-3)
    assert aiq(network, 4).intensity == pytest.approx(45.46, abs=5e-3)
    assert full._replace(weight_bytes=0).intensity == pytest.approx(49.44, abs=5e-3)
    assert full.weight_bytes / full.bytes == pytest.approx(0.396, abs=5e-4)


def test_depthwise_convolutions_are_divided_by_their_groups():
    """The authors' own count is 226,468,864, because it is not."""
    full = aiq(mobilenet_v2(num_classes=10))
    assert full.flops == 12_249_856
    assert full.intensity == pytest.approx(1.236, abs=5e-4)


@pytest.mark.parametrize(("batch", "gain"), [(1, 1.53), (8, 1.07), (128, 1.004)])
def test_a_larger_batch_gains_less_by_smaller_weights(batch, gain):
    network = build_network("resnet20", 10, 3, {})
    few = aiq(network, 4, shortcuts=4, batch=batch)
    assert few.intensity / aiq(network, batch=batch).intensity == pytest.approx(gain, rel=5e-3)


def by_hand(network, image):
    """FLOPs and activations of plain networks, module by module and place by place."""
    flops = numbers = 0

    def see(module, args, output):
        nonlocal flops, numbers
        numbers += args[0].numel() + output.numel()
        if isinstance(module, nn.Linear):
            flops += sum(2 * module.in_features for _ in range(output.numel()))
            return
        inner = module.in_channels // module.groups
        for size in module.kernel_size:
            inner *= size
        for _ in range(output[0, 0].numel()):
            flops += 2 * module.out_channels * inner

    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.register_forward_hook(see)
    network.eval()(image)
    return flops, numbers


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_costs_what_its_modules_do(name):
    shape = (3, 16, 16)
    network = build_network(name, 5, 3, {}, shape)
    image = torch.randn(1, *shape)
    layers = count_layers(network, image)
    cost = network_cost(layers, {}, batch=3)
    flops, numbers = by_hand(network, image)
    modules = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert cost.flops == 3 * flops
    assert cost.activation_bytes == 3 * 4 * numbers
    assert cost.weight_bytes == sum(4 * p.numel() for m in modules for p in m.parameters())
    eight = network_cost(layers, dict.fromkeys(layers, 8), activation_bits=8, batch=3)
    assert eight.activation_bytes == 3 * (numbers - 5 + 4 * 5)  # 5 logits are floats


def test_layers_at_full_precision_read_and_write_floats():
    """A convolution of 8 inputs and 4 outputs per place, 9 places, and a head without codes."""
    network = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(36, 5))
    layers = count_layers(network, torch.zeros(1, 8, 3, 3))
    cost = network_cost(layers, {"0.weight": 8}, activation_bits=8)
    assert cost.activation_bytes == 9 * (8 + 4) + 4 * (36 + 5)


@pytest.mark.parametrize("bits", LEVELS)
def test_weights_take_the_bytes_that_are_stored(bits):
    for rows, columns in ((1, 1), (3, 27), (10, 64), (7, 9), (2, 5)):
        codes = torch.zeros(rows, columns, dtype=torch.uint8)
        grid = Grid(torch.ones(rows, 1), torch.zeros(rows, 1, dtype=torch.uint8), LEVELS[bits])
        stored = pack(codes, grid.levels).nbytes + grid.scale.nbytes + grid.zero.nbytes
        assert weight_bytes(rows, columns, bits) == stored
        assert weight_bytes(rows, columns, 32) == 4 * rows * columns
        assert weight_bytes(rows, columns, bits, "aiq") == rows * columns * bits / 8


class Twice(nn.Module):
    """A layer that is called twice, one that shares its weight, and a grouped one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.conv.weight
        self.grouped = nn.Conv2d(4, 8, 3, groups=4, bias=False)

    def forward(self, images):
        return self.grouped(self.tied(self.conv(self.conv(images)))).mean((2, 3))


def test_a_weight_that_is_used_again_is_stored_once():
    layers = count_layers(Twice(), torch.zeros(2, 4, 6, 6))
    assert list(layers) == ["conv.weight", "grouped.weight"]
    assert layers["conv.weight"].flops == 3 * 2 * 4 * 36 * 4 * 9
    assert layers["conv.weight"].inputs == 3 * 4 * 36
    assert layers["grouped.weight"].flops == 2 * 8 * 16 * 1 * 9
    cost = network_cost(layers, {})
    assert cost.weight_bytes == 4 * (4 * 4 * 9 + 4 + 8 * 9)


def test_the_layers_of_an_attention_count():
    """By hand: 5 tokens of 8 numbers, three projections as one, a head, and two linear layers."""
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layers = count_layers(encoder, torch.randn(1, 5, 8))
    assert {key: layer.flops for key, layer in layers.items()} == {
        "self_attn.in_proj_weight": 2 * 5 * 24 * 8,
        "self_attn.out_proj.weight": 2 * 5 * 8 * 8,
        "linear1.weight": 2 * 5 * 16 * 8,
        "linear2.weight": 2 * 5 * 8 * 16,
    }


def test_a_batch_has_images():
    with pytest.raises(ValueError, match="A batch must have 1 image or more, got 0"):
        network_cost({}, {}, batch=0)


def test_quantized_networks_are_as_large_as_they_are_counted():
    network = build_network("resnet8", 10, 3, {})
    quantized, _ = quantize_network(network, Variant.parse("nearest-w3-last8"))
    assert isinstance(quantized, QuantizedNetwork)
    bits = {key: 8 if key == "fc.weight" else 3 for key in quantized.weights}
    layers = count_layers(network, IMAGE)
    stored = sum(
        pack(w.codes, w.grid.levels).nbytes + w.grid.scale.nbytes + w.grid.zero.nbytes
        for w in quantized.weights.values()
    )
    assert network_cost(layers, bits).weight_bytes == stored + quantized.rest["fc.bias"].nbytes
