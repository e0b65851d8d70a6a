import sys
import warnings
from math import prod

import pytest
import torch
from torch import nn

from lightning_modules.networks import build_network


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


class Broken(nn.Module):
    def __init__(self, num_classes: int, kind: str) -> None:
        raise {"value": ValueError("too wide.\nReally."), "import": ImportError("no timm")}[kind]


def by_keywords(width: int = 4, **options: int) -> nn.Module:
    """As torchvision's and timm's builders: the classes are an option that it passes on."""
    return Own(channels=1, width=width, **options)


def with_fixed_classes(**options: int) -> nn.Module:
    """Passes on options that its network does not have."""
    return WithoutHints(**{"features": 4} | options)


class Quits(nn.Module):
    def __init__(self) -> None:
        raise SystemExit(2)


def scripted() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        return torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))


def with_a_scripted_layer(num_classes: int, channels: int) -> nn.Module:
    network = Own(num_classes, channels)
    network.conv = scripted()
    return network


def compiled(num_classes: int, channels: int) -> nn.Module:
    network = Own(num_classes, channels)
    network.conv = torch.compile(network.conv)
    return torch.compile(network)


class Shaped(nn.Module):
    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(prod(shape), num_classes)


NOT_CALLABLE = 3


def not_a_module(num_classes: int) -> list[int]:
    return [num_classes]


@pytest.fixture
def users(monkeypatch, request):
    """This file as a module that can be imported by name, as a user's would be."""
    monkeypatch.setitem(sys.modules, "users_networks", request.module)
    return "users_networks"


def test_a_users_network_by_import_path(users):
    network = build_network(f"{users}.Own", 7, 1, {"width": 6})
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert network.fc.in_features == 6
    assert build_network(f"{users}.Own", 7, 1, {"num_classes": 2}).fc.out_features == 2
    assert build_network(f"{users}.WithoutHints", 7, 1, {"features": 3}).fc.in_features == 3


def test_torchvisions_networks_by_import_path():
    network = build_network("torchvision.models.mobilenet_v2", 1, 3, {"num_classes": 5})
    assert network.classifier[-1].out_features == 5


def test_builders_with_keywords_get_the_classes(users):
    assert build_network(f"{users}.by_keywords", 7, 1, {}).fc.out_features == 7
    network = build_network(f"{users}.by_keywords", 7, 1, {"num_classes": 3, "width": 6})
    assert network.fc.weight.shape == (3, 6)
    assert build_network(f"{users}.with_fixed_classes", 7, 1, {}).fc.out_features == 2


@pytest.mark.parametrize("size", [32, 64])
def test_torchvisions_transformers_by_import_path(size):
    path = "torchvision.models.vision_transformer.VisionTransformer"
    args = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    network = build_network(path, 7, 3, {"image_size": size, **args})
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    path = "torchvision.models.swin_transformer.SwinTransformer"
    args = {"patch_size": [4, 4], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    network = build_network(path, 7, 3, {"window_size": [4, 4], **args})
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    network = build_network("torchvision.models.shufflenet_v2_x0_5", 7, 3, {})  # `**kwargs`
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_the_shape_of_an_example_is_passed_to_those_that_name_it(users):
    assert build_network(f"{users}.Shaped", 7, 1, {}, (2, 3)).fc.weight.shape == (7, 6)
    assert build_network("mlp", 7, 1, {"widths": []}, (1, 1, 600)).fc.weight.shape == (7, 600)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet", {}, "one of resnet18, .*resnet20, .* or the import path .* got `resnet`"),
        ("no_such.Network", {}, "`no_such.Network` cannot be imported .*No module.* PYTHONPATH"),
        ("torch.nn.NoSuch", {}, "`torch.nn.NoSuch` must be .* and .*__init__.py has none of"),
        ("users_networks.Owm", {}, r"has none of that name\. Did you mean `users_networks.Own`\?"),
        ("convent", {}, r"got `convent`\. Did you mean `convnet`\?"),
        ("users_networks.Quits", {}, "cannot be built with .*: SystemExit: 2"),
        ("users_networks.scripted", {}, "one compiled by `torch.jit` as a whole. Build it"),
        ("users_networks.with_a_scripted_layer", {}, "one compiled by `torch.jit` in conv. Build"),
        ("users_networks.NOT_CALLABLE", {}, "must be a function or a class, and .*py has 3"),
        ("users_networks.not_a_module", {}, "must build a torch.nn.Module, got a list"),
        ("users_networks.Own", {"depth": 3}, "takes .*width: int = 4.* argument 'depth'"),
        ("users_networks.WithoutHints", {}, "got {}: missing .* argument: 'features'"),
        (
            "users_networks.Broken",
            {"kind": "value"},
            "cannot be built with .*ValueError: too wide. C",
        ),
        (
            "users_networks.Broken",
            {"kind": "import"},
            "cannot be built with .*ImportError: no timm.",
        ),
        ("users_networks.Own", {"width": "4"}, "cannot be built with .*'width': '4'.*TypeError: "),
        ("users_networks.by_keywords", {"depth": 3}, "cannot be built with .*argument 'depth'"),
        ("mlp", {"widths": [0]}, "`widths` must be 1 or more each"),
        ("unittest.mock.nothing", {}, "must be a function or a class, and .*mock.py has none"),
        ("sys.nothing", {}, "must be a function or a class, and `sys` has none of that name"),
        ("torchvision.models.resnet18", {"weights": "best"}, "cannot be built with .*weights"),
        ("resnet20", {"width": 3}, "`resnet20` takes .*num_classes.* argument 'width'"),
    ],
)
@pytest.mark.usefixtures("users")
def test_what_cannot_be_built_says_why(name, args, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, 10, 3, args, (3, 8, 8))


def test_a_compiled_network_is_taken_without_its_wrappers(users):
    network = build_network(f"{users}.compiled", 7, 1, {})
    assert type(network).__name__ == "Own"
    assert type(network.conv) is nn.Conv2d
    assert (
        network.state_dict().keys() == build_network(f"{users}.Own", 7, 1, {}).state_dict().keys()
    )
