"""Multiply-accumulates of a network's convolutions and linear layers, from shapes alone."""

import copy
from collections.abc import Mapping
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.cut import Shapes


@torch.no_grad()
def count_places(network: nn.Module, images: Float[Tensor, "batch ..."]) -> dict[str, int]:
    """How often each weight of a layer is used per image, by the weight's key.

    Args:
        network: the network, which is not changed.
        images: some inputs; only their shape matters.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    places: dict[str, int] = {}

    def count(key: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, _ConvTransposeNd):
            uses = inputs[0].numel() // module.in_channels
        elif isinstance(module, _ConvNd):
            uses = output.numel() // module.out_channels
        else:
            uses = output.numel() // output.shape[-1]
        places[key] = places.get(key, 0) + uses // len(images)

    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear) and "weight" in module._parameters:
            key = f"{name}.weight"
            module.register_forward_hook(
                lambda module, inputs, output, key=key: count(key, module, inputs, output)
            )
    network(images.cpu().float())
    return places


def macs(shapes: Shapes, places: Mapping[str, int]) -> int:
    """Multiply-accumulates per image, without biases and normalisation.

    Args:
        shapes: shape of each weight.
        places: how often each is used.
    """
    return sum(prod(shapes[key]) * uses for key, uses in places.items())
