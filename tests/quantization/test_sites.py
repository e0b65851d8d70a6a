import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.networks import build_network
from quantization.quantized_network import layer_bits, layer_name
from quantization.sites import find_sites, watch
from quantization.variant import Variant


def weights_of(network):
    return {layer_name(key): key for key in layer_bits(network, Variant.parse("nearest-w8"))}


def images_for(*shape):
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """One tensor for two layers and a sum, a table that is added, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)
        self.twice, self.table = nn.Linear(6, 6), nn.Parameter(torch.randn(6))

    def forward(self, x):
        x = functional.relu(x + self.table)
        y = self.left(x) + self.right(x)
        y = torch.add(self.twice(x), self.twice(y))
        y.add_(x)  # not rebound
        return y


def test_sites_of_one_tensor_are_together():
    network = Branches().eval()
    assert find_sites(network, weights_of(network), images_for(6)) == [
        ["left", "right", "twice", "addition-3.right"],
        ["addition-1.left"],
        ["addition-1.right"],
        ["addition-2.left"],
        ["addition-2.right"],
        ["addition-3.left"],
    ]


def test_a_watched_network_computes_what_is_written_out():
    """Changes of every site, against the same network with the changes written into it."""
    network = Branches().eval()
    groups = find_sites(network, weights_of(network), images_for(6))
    sites = [site for group in groups for site in group]
    factors = {site: 1 + 0.1 * number for number, site in enumerate(sorted(sites))}
    x = images_for(6)

    def f(site, value):
        one = torch.ones(())
        return (one + one) * 0.5 * factors[site] * value  # an addition that does not count

    with torch.no_grad():
        h = functional.relu(x + network.table)
        y = f("addition-1.left", network.left(f("left", h)))
        y = y + f("addition-1.right", network.right(f("right", h)))
        z = f("addition-2.left", network.twice(f("twice", h)))
        z = z + f("addition-2.right", network.twice(f("twice", y)))
        expected = f("addition-3.left", z) + f("addition-3.right", h)
    before = network(x)
    handles = watch(network, sites, f)
    copied = copy.deepcopy(network)
    for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        with mode:
            assert torch.equal(network(x), expected)
            assert torch.equal(copied(x), expected)  # the count begins anew in every pass
    for handle in handles:
        handle.remove()
    assert torch.equal(network(x), before)


def test_a_pass_that_fails_leaves_no_mode_behind():
    network = Branches().eval()
    watch(network, ["addition-1.left", "addition-1.right"], lambda site, tensor: tensor * 2)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 5))
    assert torch.equal(torch.ones(2) + torch.ones(2), torch.full((2,), 2.0))
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("name", ["resnet8", "convnet", "mlp", "wide_resnet28_2", "resnet8_gn"])
def test_inputs_of_all_layers_are_sites(name):
    network = build_network(name, 10, 1, {}, (1, 8, 8)).eval()
    weights = weights_of(network)
    groups = find_sites(network, weights, images_for(1, 8, 8))
    sites = [site for group in groups for site in group]
    assert len(sites) == len(set(sites))
    assert weights.keys() <= set(sites)
    blocks = {"resnet8": 3, "resnet8_gn": 3, "wide_resnet28_2": 12}.get(name, 0)
    assert len([site for site in sites if site.startswith("addition")]) == 2 * blocks
    assert len([site for site in sites if site.startswith("pool")]) == (name != "mlp")
    if name == "resnet8":
        assert ["layer1.0.conv1", "addition-0.right"] in groups
        assert ["layer2.0.conv1", "layer2.0.downsample.0"] in groups


def test_only_layers_with_quantized_weights_are_sites():
    network = build_network("convnet", 10, 1, {}).eval()
    weights = weights_of(network)
    del weights["fc"]
    sites = find_sites(network, weights, images_for(1, 8, 8))
    assert sites == [["layer1.0"], ["layer2.0"], ["layer3.0"], ["pool-0"]]


def test_a_layer_that_nothing_calls_has_no_site():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 6)).eval()
    network[1].unused = nn.Linear(3, 3)
    assert find_sites(network, weights_of(network), images_for(6)) == [["1"]]


def test_weights_that_a_network_multiplies_itself_are_refused():
    network = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    weights, images = weights_of(network), images_for(5, 8)
    with pytest.raises(
        ValueError,
        match=r"MultiheadAttention multiplies `0.self_attn.in_proj`, `0.self_attn.out_proj` itself"
        r".*--layer_bits '\{\"0.self_attn.\*\": 32\}'`, or remove `-a` from the variant",
    ):
        find_sites(network, weights, images)
    kept = {name: key for name, key in weights.items() if "attn" not in name}
    sites = [site for group in find_sites(network, kept, images) for site in group]
    assert {"0.linear1", "0.linear2", "addition-0.left", "addition-1.right"} <= {*sites}
