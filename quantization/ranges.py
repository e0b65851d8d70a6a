"""Ranges of a network's activations on calibration images, and networks that compute with them."""

import copy
import math
import zlib
from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.activations import ActivationGrid, fake_quantize, find_range
from quantization.calibration import CHUNK, Images, check_finite
from quantization.quantized_network import layer_name
from quantization.rounding.grid import Bits
from quantization.sites import find_sites, watch
from quantization.variant import UNQUANTIZED

SAMPLE = 2**15  # values per tensor; four times as many moved no range of a resnet8 by more than 2%

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
    bits: Mapping[str, Bits],
    images: Images,
    activation_bits: int,
    seed: int,
) -> Ranges:
    """Find the grid of every tensor that a network quantizes, at the values it has unquantized.

    Args:
        network: the architecture; it stays as it is.
        state: its state dict with the quantized weights, whose errors the ranges include.
        bits: bits of its weights by key; inputs of layers at full precision stay so, too.
        images: the calibration images.
        activation_bits: 8 or 4.
        seed: seed of the sample of values.

    Returns:
        Grids by site; sites of the same tensor have the same.

    Raises:
        DivergedError: an activation is not finite.
        ValueError: an activation is empty, or the network multiplies a layer's weight itself.
    """
    work = copy.deepcopy(network).float().eval()
    work.load_state_dict(dict(state))
    weights = {layer_name(key): key for key, own in bits.items() if own != UNQUANTIZED}
    groups = find_sites(work, weights, images)
    ranges = {}
    for group, values in zip(groups, _sample(work, groups, images, seed), strict=True):
        try:
            grid = find_range(values, activation_bits)
        except ValueError as error:
            raise ValueError(f"`{group[0]}`: {error}") from error
        ranges.update(dict.fromkeys(group, grid))
    return ranges


def _sample(
    network: nn.Module, groups: list[list[str]], images: Images, seed: int
) -> list[Float[Tensor, " values"]]:
    """Values of each group's tensors: all, or about `SAMPLE` of them, evenly over the images."""
    group_of = {site: number for number, group in enumerate(groups) for site in group}
    parts: list[list[Tensor]] = [[] for _ in groups]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} activations".encode()))
    wanted = 0

    def draw(site: str, tensor: Tensor) -> Tensor:
        check_finite(site, [tensor] if tensor.numel() else [])
        values = tensor.flatten().float()
        if len(values) > wanted:
            chosen = torch.randint(len(values), (wanted,), generator=generator)
            values = values[chosen.to(values.device)]
        parts[group_of[site]].append(values.clone())
        return tensor

    handles = watch(network, group_of, draw)
    try:
        for chunk in torch.split(images, CHUNK):
            wanted = math.ceil(SAMPLE * len(chunk) / len(images))
            network(chunk.clone())
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(own) if own else torch.empty(0) for own in parts]
