"""The blocks that a trace finds, and those that a network names itself."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from lightning_modules.networks import convnet, resnet8, resnet18, resnet20, wide_resnet28_2
from quantization.trace import Trace


@pytest.fixture
def images(rng):
    return torch.randn(2, 3, 8, 8, generator=rng)


def blocks(network, channels=3, side=16):
    return Trace(network.eval(), torch.randn(2, channels, side, side)).blocks()


def of_class(network, kind):
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


def test_blocks_of_residual_networks():
    expected = [f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(3)]
    assert blocks(resnet20(10, 3)) == expected
    expected = [f"layer{stage}.{at}" for stage in (1, 2, 3, 4) for at in range(2)]
    assert blocks(resnet18(10, 1), channels=1, side=8) == expected
    expected = [f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(4)]
    assert blocks(wide_resnet28_2(10, 3), side=8) == expected
    bottlenecks = torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], width_per_group=8)
    assert blocks(bottlenecks, side=32) == of_class(bottlenecks, Bottleneck)


def test_blocks_of_mobilenet_include_those_without_a_skip():
    network = torchvision.models.mobilenet_v2(width_mult=0.25)
    block_names = blocks(network, side=32)
    assert block_names == of_class(network, InvertedResidual)
    skips = {network.get_submodule(name).use_res_connect for name in block_names}
    assert skips == {True, False}


def test_blocks_of_efficientnet_are_not_squeeze_and_excitation():
    from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig

    settings = [MBConvConfig(2, 3, stride, 8, 8, 2, 0.25, 1.0) for stride in (1, 2)]
    network = EfficientNet(settings, dropout=0.1, last_channel=16)
    assert blocks(network, side=32) == of_class(network, MBConv) != []


def test_networks_without_residual_blocks():
    assert blocks(convnet(10, 3)) == []
    assert blocks(torchvision.models.DenseNet(8, (2, 2), 8), side=32) == []
    assert blocks(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)))) == []


class Residual(nn.Module):
    def __init__(self, *parts, skip=True):
        super().__init__()
        self.parts, self.skip = nn.Sequential(*parts), skip

    def forward(self, x):
        return x + self.parts(x) if self.skip else self.parts(x)


def pair():
    return nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)


class Outer(Residual):
    pass


def test_of_nested_blocks_the_innermost_count():
    network = nn.Sequential(Outer(Residual(*pair()), *pair()), Outer(*pair()))
    assert blocks(network) == ["0.parts.0", "1"]


def test_a_block_has_two_layers_and_is_called_once():
    assert blocks(nn.Sequential(Residual(nn.Conv2d(3, 3, 1)), Residual(*pair()))) == ["1"]
    twice = Residual(*pair())
    assert blocks(nn.Sequential(twice, nn.ReLU(), twice)) == []
    shared = nn.Conv2d(3, 3, 1)
    assert blocks(nn.Sequential(Residual(shared, *pair()), shared)) == []


class Add(nn.Module):
    def forward(self, x, y):
        return x + y


class ByModule(Residual):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.add = Add()

    def forward(self, x):
        return self.add(x, self.parts(x))


class Options(Residual):
    def forward(self, x, scale=1.0):
        return super().forward(x) * scale


class ByOption(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Options(*pair()), Options(*pair())

    def forward(self, x):
        return self.second(self.first(x, scale=2.0))


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x):
        return x + self.shift


def test_an_addition_belongs_to_the_nearest_module_with_layers():
    assert blocks(nn.Sequential(ByModule(*pair()))) == ["0"]
    assert blocks(ByOption()) == ["second"]  # a module with options does not take one tensor
    # A parameter is no branch, or else these sequences would be blocks.
    shifted = nn.Sequential(nn.Sequential(Shift(), *pair()), nn.Sequential(*pair()))
    assert blocks(shifted) == []


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["layer1"], ["layer1"]),
        (["layer[12]"], ["layer1", "layer2"]),
        (["layer2.*", "layer1"], ["layer2.0", "layer1"]),
        (["layer1", "layer1.0", "layer1.*"], ["layer1"]),
        (["*"], ["layer1", "layer2", "layer3"]),
        ([], []),
    ],
)
def test_a_network_names_its_own_blocks(own, expected):
    network = resnet8(10, 3)
    network.quantization_blocks = own
    assert blocks(network) == expected


@pytest.mark.parametrize("pattern", ["layer4", "conv1", "bn1", "Layer1", ""])
def test_named_blocks_that_cannot_be_blocks_are_refused(pattern):
    network = resnet8(10, 3)
    network.quantization_blocks = ["layer1", pattern]
    message = rf"of Sequential has `{pattern}`, which matches no .* has layer1, layer1\.0, layer2,"
    with pytest.raises(ValueError, match=message):
        blocks(network)


class Positions(nn.Module):
    """A branch to which a table, a mask and a number are added, in a block with a shortcut."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.table = nn.Parameter(torch.randn(1, 3, 64))

    def forward(self, x):
        mask = x.new_zeros(8, 8)
        mask[:2] = -1
        x = self.one(x) + self.table.unflatten(2, (8, 8)) + mask.mul(2)[None] + 1
        return self.two(x + torch.arange(8.0))


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Positions()

    def forward(self, x):
        return x + self.inner(x)


def test_what_no_image_changes_is_no_branch(images):
    assert Trace(nn.Sequential(Shortcut(), Shortcut()).eval(), images).blocks() == ["0", "1"]
    assert Trace(nn.Sequential(Positions()).eval(), images).blocks() == []
