"""Architectures for images of 8x8 and up, and for rows of numbers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

STEM = "features.conv0.weight"  # of torchvision's DenseNets
GROUPS = 8  # of channels in a GroupNorm

Norm = Callable[[int], nn.Module]  # normalisation of some channels


def resnet18(num_classes: int, channels: int) -> nn.Module:
    """ResNet-18 with a stem for small images: 3x3, stride 1, no max-pool; 11.2 M parameters."""
    return _small_stem(torchvision.models.resnet18(num_classes=num_classes), channels)


def resnet50(num_classes: int, channels: int) -> nn.Module:
    """ResNet-50 with the same stem; 23.5 M parameters."""
    return _small_stem(torchvision.models.resnet50(num_classes=num_classes), channels)


def densenet121(num_classes: int, channels: int) -> nn.Module:
    """DenseNet-121 with the same stem; 7.0 M parameters."""
    return small_densenet(torchvision.models.densenet121(num_classes=num_classes), channels)


def small_densenet(network: nn.Module, channels: int) -> nn.Module:
    """Give one of torchvision's DenseNets the stem for small images, and name BRECQ's blocks.

    Args:
        network: the network, which is changed.
        channels: number of channels of the images.
    """
    features, width = network.get_submodule("features"), len(network.get_parameter(STEM))
    features.conv0, features.pool0 = _conv(channels, width), nn.Identity()
    nn.init.kaiming_normal_(network.get_parameter(STEM))  # as torchvision's other layers
    for name, block in features.named_children():
        if name.startswith("denseblock"):
            features.register_module(name, DenseBlock(OrderedDict(block.named_children())))
    network.quantization_blocks = ["features.denseblock*.denselayer*"]  # type: ignore[assignment]
    return network


def resnet20(num_classes: int, channels: int) -> nn.Module:
    """ResNet-20 of He et al. 2016 (arXiv:1512.03385, section 4.2); 0.27 M parameters."""
    return _narrow_resnet(3, num_classes, channels)


def resnet8(num_classes: int, channels: int) -> nn.Module:
    """ResNet-20 with one block per stage instead of three; 0.08 M parameters."""
    return _narrow_resnet(1, num_classes, channels)


def resnet8_gn(num_classes: int, channels: int) -> nn.Module:
    """ResNet-8 with GroupNorm, which keeps the examples of a batch apart; 0.08 M parameters."""
    return _narrow_resnet(1, num_classes, channels, _group_norm)


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


def convnet(num_classes: int, channels: int, width: int = 16) -> nn.Module:
    """Three convolutions, each with BatchNorm, ReLU and max-pool; 0.02 M parameters, for CPUs.

    Args:
        num_classes: number of classes.
        channels: number of channels of an image.
        width: number of output channels of the first convolution; each further one doubles it.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"`width` must be 1 or more, got {width}.")
    return _convnet(num_classes, channels, nn.BatchNorm2d, width)


def convnet_gn(num_classes: int, channels: int) -> nn.Module:
    """The same with GroupNorm, which keeps the examples of a batch apart; 0.02 M parameters."""
    return _convnet(num_classes, channels, _group_norm, width=16)


def _convnet(num_classes: int, channels: int, norm: Norm, width: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            layer1=_conv_stage(channels, width, norm),
            layer2=_conv_stage(width, 2 * width, norm),
            layer3=_conv_stage(2 * width, 4 * width, norm),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * width, num_classes),
        )
    ).apply(_he_init)


def mlp(
    num_classes: int, shape: Sequence[int], widths: Sequence[int] = (512, 256), dropout: float = 0.0
) -> nn.Module:
    """Fully connected layers with ReLU, for rows of numbers; 0.14 M parameters beside the first.

    Args:
        num_classes: number of classes.
        shape: shape of one example, which is flattened.
        widths: number of units of each hidden layer; none is a linear classifier.
        dropout: chance of dropping each hidden unit in training.

    Raises:
        ValueError: a width below 1, or a chance outside 0 to 1.
    """
    if any(width < 1 for width in widths):
        raise ValueError(f"`widths` must be 1 or more each, got {list(widths)}.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = [prod(shape), *widths]
    for number, width in enumerate(widths, 1):
        parts = [nn.Linear(sizes[number - 1], width), nn.ReLU(inplace=True)]
        layers[f"layer{number}"] = nn.Sequential(
            *parts, *([nn.Dropout(dropout)] if dropout else [])
        )
    return nn.Sequential(layers | {"fc": nn.Linear(sizes[-1], num_classes)})


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


class OutOfPlaceBlock(BasicBlock):  # type: ignore[misc]  # torchvision is not typed
    """BasicBlock that adds out of place, because DP-SGD's hooks do not allow `+=`."""

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        residual: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        identity: Tensor = x if self.downsample is None else self.downsample(x)
        active: Tensor = self.relu(residual + identity)
        return active


class DenseBlock(nn.Sequential):
    """Layers that each see the features of all before them, as one tensor.

    So they can be blocks of BRECQ; torchvision calls them with a list of tensors.
    """

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        for layer in self:
            features = torch.cat([features, layer(features)], 1)
        return features


def _small_stem(network: nn.Module, channels: int) -> nn.Module:
    """Replace the stem of one of torchvision's ResNets: 3x3, stride 1, no max-pool."""
    network.conv1 = _conv(channels, 64).apply(_he_init)
    network.maxpool = nn.Identity()
    return network


def _narrow_resnet(
    blocks: int, num_classes: int, channels: int, norm: Norm = nn.BatchNorm2d
) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(channels, 16),
            bn1=norm(16),
            relu=nn.ReLU(inplace=True),
            layer1=_narrow_stage(blocks, 16, 16, 1, norm),
            layer2=_narrow_stage(blocks, 16, 32, 2, norm),
            layer3=_narrow_stage(blocks, 32, 64, 2, norm),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, num_classes),
        )
    ).apply(_he_init)


def _narrow_stage(
    blocks: int, in_channels: int, out_channels: int, stride: int, norm: Norm
) -> nn.Module:
    downsample = None
    if stride != 1:
        projection = _conv(in_channels, out_channels, stride, kernel_size=1)
        downsample = nn.Sequential(projection, norm(out_channels))
    block = BasicBlock if norm is nn.BatchNorm2d else OutOfPlaceBlock
    first = block(in_channels, out_channels, stride, downsample, norm_layer=norm)
    rest = [block(out_channels, out_channels, norm_layer=norm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _wide_stage(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    first = PreActivationBlock(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(3))
    )


def _conv_stage(in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    return nn.Sequential(
        _conv(in_channels, out_channels),
        norm(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels)


def _conv(in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3) -> nn.Conv2d:
    """Convolution without a bias, because a norm follows; at stride 1 images keep their size."""
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def _he_init(module: nn.Module) -> None:
    """Initialise convolutions as torchvision's ResNets do; linear layers keep PyTorch's default."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
