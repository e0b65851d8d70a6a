"""Networks by name or import path, for images of 8x8 and up; ours end in a classifier `fc`."""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


def resnet18(num_classes: int, channels: int) -> nn.Module:
    """ResNet-18 with a stem for small images: 3x3, stride 1, no max-pool; 11.2 M parameters."""
    network: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    network.conv1 = _conv(channels, 64).apply(_he_init)
    network.maxpool = nn.Identity()
    return network


def resnet20(num_classes: int, channels: int) -> nn.Module:
    """ResNet-20 of He et al. 2016 (arXiv:1512.03385, section 4.2); 0.27 M parameters."""
    return _narrow_resnet(3, num_classes, channels)


def resnet8(num_classes: int, channels: int) -> nn.Module:
    """ResNet-20 with one block per stage instead of three; 0.08 M parameters."""
    return _narrow_resnet(1, num_classes, channels)


def wide_resnet28_2(num_classes: int, channels: int) -> nn.Module:
    """WRN-28-2 of Zagoruyko and Komodakis 2016 (arXiv:1605.07146); 1.5 M parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(channels, 16),
            layer1=_wide_stage(16, 32, stride=1),
            layer2=_wide_stage(32, 64, stride=2),
            layer3=_wide_stage(64, 128, stride=2),
            bn1=nn.BatchNorm2d(128),
            relu=nn.ReLU(inplace=True),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(128, num_classes),
        )
    ).apply(_he_init)


def convnet(num_classes: int, channels: int) -> nn.Module:
    """Three convolutions, each with BatchNorm, ReLU and max-pool; 0.02 M parameters, for CPUs."""
    return nn.Sequential(
        OrderedDict(
            layer1=_conv_stage(channels, 16),
            layer2=_conv_stage(16, 32),
            layer3=_conv_stage(32, 64),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, num_classes),
        )
    ).apply(_he_init)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet8": resnet8,
    "wide_resnet28_2": wide_resnet28_2,
    "convnet": convnet,
}


def build_network(name: str, num_classes: int, channels: int, args: dict[str, Any]) -> nn.Module:
    """Build one of our networks or the user's own.

    Args:
        name: a key of `NETWORKS`, or the import path of a class or function, such as
            `torchvision.models.vgg.vgg11_bn`.
        num_classes: number of classes; passed on if the signature has it.
        channels: number of channels of the images; passed on if the signature has it.
        args: further arguments by name, which override these two.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: the name is unknown or cannot be imported, the arguments do not fit its
            signature, or what it builds is not an `nn.Module`.
    """
    build = NETWORKS[name] if name in NETWORKS else _imported(name)
    signature = inspect.signature(build)
    known = {"num_classes": num_classes, "channels": channels}
    given = {key: value for key, value in known.items() if key in signature.parameters} | args
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(f"Network `{name}` takes {signature}, got {given}: {error}.") from error
    network = build(**given)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"Network `{name}` must build a torch.nn.Module, got a {kind}.")
    return network


class PreActivationBlock(nn.Module):
    """Residual block with BatchNorm and ReLU before each convolution (arXiv:1603.05027)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = _conv(in_channels, out_channels, stride, kernel_size=1)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        active: Tensor = self.relu(self.bn1(features))
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(active))))
        # A projection starts from the activated input, an identity from the raw one.
        return residual + (features if self.downsample is None else self.downsample(active))


def _narrow_resnet(blocks: int, num_classes: int, channels: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(channels, 16),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(inplace=True),
            layer1=_narrow_stage(blocks, 16, 16, stride=1),
            layer2=_narrow_stage(blocks, 16, 32, stride=2),
            layer3=_narrow_stage(blocks, 32, 64, stride=2),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, num_classes),
        )
    ).apply(_he_init)


def _narrow_stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    downsample = None
    if stride != 1:
        projection = _conv(in_channels, out_channels, stride, kernel_size=1)
        downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    first = BasicBlock(in_channels, out_channels, stride, downsample)
    rest = [BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _wide_stage(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    first = PreActivationBlock(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(3))
    )


def _conv_stage(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        _conv(in_channels, out_channels),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _conv(in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3) -> nn.Conv2d:
    """Convolution without a bias, because BatchNorm follows; at stride 1 images keep their size."""
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def _he_init(module: nn.Module) -> None:
    """Initialise convolutions as torchvision's ResNets do; linear layers keep PyTorch's default."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _imported(path: str) -> Callable[..., Any]:
    """Import a class or function by its path."""
    module, _, attribute = path.rpartition(".")
    if not module:
        raise ValueError(
            f"Network must be one of {', '.join(NETWORKS)}, or the import path of your own such as"
            f" `package.module.Class`, got `{path}`."
        )
    try:
        build = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Network `{path}` cannot be imported ({error}). Is its folder on PYTHONPATH?"
        ) from error
    if not callable(build):
        raise ValueError(f"Network `{path}` must be a class or function, got {build!r}.")
    return build  # type: ignore[no-any-return]
