"""Ranges of a network's activations on calibration images, and networks that compute with them."""

import copy
from collections.abc import Collection, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.activations import ActivationGrid, fake_quantize, find_range
from quantization.calibration import CHUNK, Images, check_finite
from quantization.quantized_network import layer_name
from quantization.sites import find_sites, watch

NODES = 2**13  # 32 per step of 8 bits

Ranges = dict[str, ActivationGrid]


def quantize_activations(network: nn.Module, ranges: Mapping[str, ActivationGrid]) -> nn.Module:
    """Let a network compute with quantized activations, in place, and so will its copies.

    Args:
        network: in evaluation mode.
        ranges: the grid of each site; none changes nothing.

    Returns:
        The same network.
    """
    if ranges:
        watch(network, ranges, partial(_quantize_at, dict(ranges)))
    return network


def _quantize_at(ranges: Ranges, site: str, tensor: Tensor) -> Tensor:
    return fake_quantize(tensor, ranges[site])


@torch.no_grad()
def find_ranges(
    network: nn.Module,
    state: Mapping[str, Tensor],
    weights: Collection[str],
    images: Images,
    activation_bits: int,
) -> Ranges:
    """Find the grid of every tensor that a network quantizes, at the values it has unquantized.

    Args:
        network: the architecture; it stays as it is.
        state: its state dict with the quantized weights, whose errors the ranges include.
        weights: keys of the quantized weights; only inputs of their layers are quantized.
        images: the calibration images.
        activation_bits: 8 or 4.

    Returns:
        Grids by site; sites of the same tensor have the same.

    Raises:
        DivergedError: an activation is not finite.
        ValueError: an activation is empty, or the network multiplies a layer's weight itself.
    """
    work = copy.deepcopy(network).float().eval()
    work.load_state_dict(dict(state))
    groups = find_sites(work, {layer_name(key): key for key in weights}, images)
    ranges = {}
    for group, counted in zip(groups, _count(work, groups, images), strict=True):
        try:
            grid = counted.find_range(activation_bits)
        except ValueError as error:
            raise ValueError(f"`{group[0]}`: {error}") from error
        ranges.update(dict.fromkeys(group, grid))
    return ranges


class Counted:
    """How often the values of one tensor occur, rounded to `NODES` steps of their whole range.

    A sample would miss the few largest values: with 32,768 of 2 million cubes of half-normal draws,
    the range for 8 bits was half as wide as the best, and its error 14 times as large.

    Attributes:
        lowest: the smallest value, or 0.
        highest: the largest value, or 0.
        counts: how often each node occurs.
        empty: whether there was no value at all.
    """

    def __init__(self) -> None:
        self.lowest = self.highest = 0.0
        self.counts = torch.zeros(NODES + 1, dtype=torch.int64)
        self.empty = True

    def widen(self, values: Float[Tensor, "..."]) -> None:
        """Take note of the smallest and the largest value."""
        self.empty = False
        self.lowest = min(self.lowest, values.min().item())
        self.highest = max(self.highest, values.max().item())

    def count(self, values: Float[Tensor, "..."]) -> None:
        """Count values that all lie in the range."""
        if self.highest > self.lowest:
            steps = (values.float() - self.lowest) * (NODES / (self.highest - self.lowest))
            nodes = steps.flatten().round().long().cpu()
            self.counts += nodes.bincount(minlength=NODES + 1)[: NODES + 1]

    def find_range(self, bits: int) -> ActivationGrid:
        """The grid of these values; raises ValueError if there are none."""
        if self.empty or self.highest == self.lowest:
            return find_range(torch.zeros(0 if self.empty else 1), bits)
        nodes = torch.linspace(self.lowest, self.highest, NODES + 1, dtype=torch.float64).float()
        occur = self.counts > 0
        return find_range(nodes[occur], bits, self.counts[occur])


def _count(network: nn.Module, groups: list[list[str]], images: Images) -> list[Counted]:
    """Count each group's values, in two passes over the images."""
    counted = [Counted() for _ in groups]
    group_of = {
        site: tensor for group, tensor in zip(groups, counted, strict=True) for site in group
    }

    def widen(site: str, tensor: Tensor) -> Tensor:
        if tensor.numel():
            check_finite(site, [tensor])
            group_of[site].widen(tensor)
        return tensor

    def count(site: str, tensor: Tensor) -> Tensor:
        if tensor.numel():
            group_of[site].count(tensor)
        return tensor

    for look in (widen, count):
        handles = watch(network, group_of, look)
        try:
            for chunk in torch.split(images, CHUNK):
                network(chunk.clone())
        finally:
            for handle in handles:
                handle.remove()
    return counted
