"""A backbone that is frozen once it is trained, and the head that learns tasks on its features."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_modules.last_layer import find_last_linear
from lightning_modules.networks import Shape


class HeadedNetwork(nn.Module):
    """A head on the features of a backbone; the keys of its state never change.

    Args:
        backbone: what features are computed by; `nn.Flatten()` gives a head the pixels.
        head: logits from a row of features per image.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.frozen = False

    def forward(
        self, images: Float[Tensor, "batch channels ..."]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the head."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def freeze(self) -> None:
        """Leave the backbone as it is from now on: no gradients, and always in evaluation mode."""
        self.frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> "HeadedNetwork":
        """Set the mode of the head, and that of the backbone until it is frozen."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


class Beheaded(NamedTuple):
    """A network in two parts: what computes its features, and its last layer."""

    backbone: nn.Module
    last: nn.Linear


def behead(network: nn.Module, shape: Shape) -> Beheaded:
    """Take a network's last layer off, in place.

    Args:
        network: a network that ends in a linear layer.
        shape: shape of one example.

    Raises:
        ValueError: the logits are not what such a layer returns.
    """
    mode, reader = network.training, "`--continual.backbone_epochs` replaces"
    name = find_last_linear(network.eval(), torch.zeros(2, *shape), reader)
    last = cast(nn.Linear, network.train(mode).get_submodule(name))
    if not name:  # it has no other layer
        return Beheaded(nn.Flatten(), last)
    network.set_submodule(name, nn.Identity())
    return Beheaded(network, last)


def on_pixels(shape: Shape, make_head: Callable[[int], nn.Module]) -> HeadedNetwork:
    """A head that is given the pixels, or the features of a table."""
    return HeadedNetwork(nn.Flatten(), make_head(prod(shape)))
