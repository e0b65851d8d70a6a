"""Elastic weight consolidation: which weights the tasks so far rest on, and what holds them."""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

CHUNK_VALUES = 2**24  # of per-example gradients at a time: 64 MiB in float32

Weights = Mapping[str, Tensor]  # by the name of a parameter


class Consolidation(NamedTuple):
    """What the stages so far hold a network's weights by.

    Attributes:
        fisher: sum of the stages' Fisher diagonals.
        anchor: where the sum of the stages' penalties is least: the mean of the weights that each
            stage ended with, weighted by its Fisher.
    """

    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]


def squared_slopes(
    network: nn.Module, images: Float[Tensor, "images ..."], scale: float = 1.0
) -> Iterator[dict[str, Tensor]]:
    """Squared gradients of log p(y) for each image, y being the class the network predicts.

    Args:
        network: the network, which is not changed; it is run in evaluation mode.
        images: images of the task, one or more.
        scale: factor of the logits before the softmax.

    Yields:
        For some images in order, at most `CHUNK_VALUES` numbers if that is more than one image: one
        tensor `[images, ...]` per trainable parameter, by its name, in float32 or finer.
    """
    network = copy.deepcopy(network).eval()  # a deep copy is not compiled, which vmap needs
    named = dict(network.named_parameters())
    weights = {name: weight.detach() for name, weight in named.items() if weight.requires_grad}
    rest = {name: weight.detach() for name, weight in named.items() if not weight.requires_grad}
    rest |= dict(network.named_buffers())

    def log_chance(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits = functional_call(network, (weights, rest), (image[None],))[0]
        chance: Tensor = scale * logits.max(0).values - (scale * logits).logsumexp(0)
        return chance

    slopes_of = vmap(grad(log_chance), in_dims=(None, 0))
    size = sum(weight.numel() for weight in weights.values())
    for chunk in torch.split(images, max(1, CHUNK_VALUES // max(1, size))):
        slopes = slopes_of(weights, chunk)
        yield {name: slope.to(_wide(slope.dtype)).square() for name, slope in slopes.items()}


def diagonal_fisher(
    network: nn.Module, images: Float[Tensor, "images ..."], scale: float = 1.0
) -> dict[str, Tensor]:
    """Mean over images of the squared gradient of log p(y), y being the class the network predicts.

    A network that is sure of its classes has next to no gradient there; a small `scale` softens its
    probabilities. SDMLP's code squares gradients summed over 512 images instead, so that its values
    are up to 512 times larger, and its importance is to be read with that.

    Args:
        network: the network, which is not changed; it is run in evaluation mode.
        images: images of the task, one or more.
        scale: factor of the logits before the softmax.

    Returns:
        One tensor per trainable parameter, by its name, in float32 or finer.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796.
    """
    sums = dict[str, Tensor]()
    for squares in squared_slopes(network, images, scale):
        for name, square in squares.items():
            sums[name] = sums.get(name, 0) + square.sum(0)
    return {name: total / len(images) for name, total in sums.items()}


def gained(before: Consolidation | None, after: Consolidation) -> dict[str, Tensor]:
    """The Fisher diagonal of one stage, as told by what holds the weights before and after it."""
    if before is None:
        return after.fisher
    return {name: total - before.fisher[name] for name, total in after.fisher.items()}


def consolidate(before: Consolidation | None, weights: Weights, fisher: Weights) -> Consolidation:
    """Add a stage to those before: its Fisher, and the weights it ended with.

    The sum of quadratics is one quadratic, up to a constant, so that memory does not grow with the
    number of tasks. Where no stage has any Fisher, the anchor is the weights of the last one.

    Args:
        before: of the stages before; None before the first.
        weights: the network's weights now, of which those in `fisher` matter.
        fisher: Fisher diagonal of this stage.
    """
    own = {name: weights[name].detach().to(value.dtype) for name, value in fisher.items()}
    if before is None:
        return Consolidation(dict(fisher), {name: value.clone() for name, value in own.items()})
    total, anchor = {}, {}
    for name, value in fisher.items():
        total[name] = before.fisher[name] + value
        share = torch.where(total[name] > 0, value / total[name], 1)
        anchor[name] = before.anchor[name].lerp(own[name], share)
    return Consolidation(total, anchor)


def consolidation_penalty(weights: Weights, consolidation: Consolidation) -> Float[Tensor, ""]:
    """Sum over weights of Fisher times squared distance from the anchor.

    Its gradient is that of the sum of the stages' own penalties. Kirkpatrick et al. halve it.
    """
    penalties = [
        (fisher * (weights[name] - consolidation.anchor[name]).square()).sum()
        for name, fisher in consolidation.fisher.items()
    ]
    return torch.stack(penalties).sum()


def _wide(dtype: torch.dtype) -> torch.dtype:
    """A type in which squares of gradients neither vanish nor lose digits."""
    return torch.promote_types(dtype, torch.float32)
