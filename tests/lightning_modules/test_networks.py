import sys

import pytest
import torch
from torch import nn

from lightning_modules.networks import NETWORKS, PreActivationBlock, build_network

# By hand: every convolution in * out * k^2, BatchNorm 2 a channel, linear in * out + out.
PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet20": 272_474,  # 0.27 M in the paper, whose shortcuts have no parameters: 269,722
    "resnet8": 78_042,
    "wide_resnet28_2": 1_467_610,  # "1.5 M"
    "convnet": 24_346,
}
CONVOLUTIONS = {"resnet18": 20, "resnet20": 21, "resnet8": 9, "wide_resnet28_2": 28, "convnet": 3}


class Own(nn.Module):
    """A user's network that takes an option beside the classes and channels."""

    def __init__(self, num_classes: int, channels: int, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3)))


class WithoutHints(nn.Module):
    """Takes neither the classes nor the channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, 2)


NOT_CALLABLE = 3


def not_a_module(num_classes: int) -> list[int]:
    return [num_classes]


@pytest.fixture
def users(monkeypatch, request):
    """This file as a module that can be imported by name, as a user's would be."""
    monkeypatch.setitem(sys.modules, "users_networks", request.module)
    return "users_networks"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 32, 64])
def test_any_size_gives_one_logit_a_class(rng, name, channels, size):
    network = build_network(name, 7, channels, {}).eval()
    images = torch.randn(2, channels, size, size, generator=rng)
    with torch.no_grad():
        logits = network(images)
        alone = network(images[:1])
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(alone, logits[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_by_hand(name):
    network = build_network(name, 10, 3, {})
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    gray = build_network(name, 10, 1, {})
    stem = 64 if name == "resnet18" else 16
    assert PARAMETERS[name] - sum(p.numel() for p in gray.parameters()) == 2 * 9 * stem


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_what_the_name_says(name):
    modules = list(build_network(name, 10, 3, {}).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == CONVOLUTIONS[name]
    assert all(m.bias is None for m in convolutions)
    assert any(isinstance(m, nn.BatchNorm2d) for m in modules)
    assert isinstance([m for m in modules if isinstance(m, nn.Conv2d | nn.Linear)][-1], nn.Linear)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(rng, name):
    network = build_network(name, 10, 1, {})
    network(torch.randn(4, 1, 8, 8, generator=rng)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_follow_the_seed_and_he(name):
    torch.manual_seed(1)
    first = build_network(name, 10, 3, {})
    torch.manual_seed(1)
    second = build_network(name, 10, 3, {})
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    for module in first.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_pre_activation_block_is_its_formula(rng, stride):
    block = PreActivationBlock(3, 5 if stride == 2 else 3, stride).eval()
    features = torch.randn(2, 3, 8, 8, generator=rng)
    kept = features.clone()
    relu = torch.relu
    active = relu(block.bn1(features))
    shortcut = features if block.downsample is None else block.downsample(active)
    expected = shortcut + block.conv2(relu(block.bn2(block.conv1(active))))
    torch.testing.assert_close(block(features), expected)
    assert torch.equal(features, kept)
    assert (block.downsample is None) == (stride == 1)


def test_a_users_network_by_import_path(users):
    network = build_network(f"{users}.Own", 7, 1, {"width": 6})
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert network.fc.in_features == 6
    assert build_network(f"{users}.Own", 7, 1, {"num_classes": 2}).fc.out_features == 2
    assert build_network(f"{users}.WithoutHints", 7, 1, {"features": 3}).fc.in_features == 3


def test_torchvisions_networks_by_import_path():
    network = build_network("torchvision.models.mobilenet_v2", 1, 3, {"num_classes": 5})
    assert network.classifier[-1].out_features == 5


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet", {}, "one of resnet18, resnet20, .* or the import path .* got `resnet`"),
        ("no_such.Network", {}, "`no_such.Network` cannot be imported .*No module.* PYTHONPATH"),
        ("torch.nn.NoSuch", {}, "`torch.nn.NoSuch` cannot be imported .*has no attribute"),
        ("users_networks.NOT_CALLABLE", {}, "must be a class or function, got 3"),
        ("users_networks.not_a_module", {}, "must build a torch.nn.Module, got a list"),
        ("users_networks.Own", {"depth": 3}, "takes .*width: int = 4.* argument 'depth'"),
        ("users_networks.WithoutHints", {}, "got {}: missing .* argument: 'features'"),
        ("resnet20", {"width": 3}, "`resnet20` takes .*num_classes.* argument 'width'"),
    ],
)
@pytest.mark.usefixtures("users")
def test_what_cannot_be_built_says_why(name, args, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, 10, 3, args)
