"""Quantized networks on disk: packed codes in safetensors, readable without the original weights.

A weight `fc.weight` becomes `fc.weight.codes`, `.scale` and `.zero`. The metadata has one entry,
`quantized`: JSON with the variant, for each weight its number of levels and its shape, and for each
quantized activation its step (a float32 number in digits that give it back), zero point and levels.
An own quantizer of whole networks leaves float32 weights, which are stored as they are, and so does
a control.
(safetensors writes several entries in random order, and equal networks should give equal files.)
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pruning.cut import load
from pruning.groups import Kept
from quantization.activations import ActivationGrid
from quantization.cost import weight_bytes
from quantization.quantized_network import (
    QuantizedNetwork,
    QuantizedWeight,
    layer_bits,
    layer_name,
)
from quantization.ranges import Ranges, quantize_activations
from quantization.rounding.grid import LEVELS, Bits, Grid
from quantization.rounding.pack import pack, unpack
from quantization.variant import UNQUANTIZED, Variant
from storage.files import save_whole, serialise, write_whole


def pack_network(quantized: QuantizedNetwork) -> bytes:
    """Content of the file of a quantized network."""
    tensors, layout = dict(quantized.rest), {}
    for key, (codes, grid, shape) in quantized.weights.items():
        tensors[f"{key}.codes"] = pack(codes, grid.levels)
        tensors[f"{key}.scale"], tensors[f"{key}.zero"] = grid.scale, grid.zero
        layout[key] = {"levels": grid.levels, "shape": shape}
    header: dict[str, object] = {"variant": str(quantized.variant), "weights": layout}
    if quantized.activations:
        header["activations"] = quantized.activations
    return serialise(tensors, {"quantized": json.dumps(header)})


def save_quantized(path: Path, quantized: QuantizedNetwork) -> None:
    """Write a quantized network; the file is whole or absent."""
    content = pack_network(quantized)
    write_whole(path, lambda partial: partial.write_bytes(content))


def save_network(path: Path, state: Mapping[str, Tensor], kept: Kept) -> None:
    """Write full-precision weights, with the channels that pruning kept, by their group.

    The shapes of the weights are the architecture; `kept` says where in the dense network it lies.
    """
    save_whole(path, state, {"kept": json.dumps(kept)} if kept else None)


def load_kept(path: Path) -> Kept:
    """Read the channels that pruning kept, by their group; none of a dense or a quantized network.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with safe_open(path, framework="pt") as file:
        kept: Kept = json.loads((file.metadata() or {}).get("kept", "{}"))
    return kept


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a quantized or a full-precision file, bit for bit what was evaluated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    _, weights, rest, _ = _read(path)
    return rest | {key: weight.dequantize() for key, weight in weights.items()}


def load_quantized(path: Path) -> QuantizedNetwork:
    """Read a network that `save_quantized` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds full-precision weights, or names a variant that this
            version does not know.
    """
    name, weights, rest, activations = _read(path)
    if name is None:
        raise ValueError(
            f"{path} must hold a quantized network, got a full-precision one. Read it with"
            " `load_weights`, or pass another variant's file."
        )
    return QuantizedNetwork(Variant.parse(name), weights, rest, activations)


def load_into(network: nn.Module, path: Path) -> nn.Module:
    """Give a network the weights of a file, and let it compute with that file's activations.

    Args:
        network: the architecture, in evaluation mode; it is changed in place, and takes the widths
            of the file, which pruning may have changed.
        path: a quantized or a full-precision file.

    Returns:
        The same network, whose logits are bit for bit those that were evaluated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    _, weights, rest, activations = _read(path)
    load(network, rest | {key: weight.dequantize() for key, weight in weights.items()})
    return quantize_activations(network, activations)


Content = tuple[str | None, dict[str, QuantizedWeight], dict[str, Tensor], Ranges]


def _read(path: Path) -> Content:
    """The variant's name (None at full precision), quantized weights, other tensors, and ranges."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("quantized", '{"weights": {}}'))
            rest = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). Delete it and run the command that"
            " wrote it again."
        ) from error
    weights = {}
    for key, layout in header["weights"].items():
        levels, shape = layout["levels"], tuple(layout["shape"])
        codes = unpack(rest.pop(f"{key}.codes"), math.prod(shape[1:]), levels)
        grid = Grid(rest.pop(f"{key}.scale"), rest.pop(f"{key}.zero"), levels)
        weights[key] = QuantizedWeight(codes, grid, shape)
    ranges = {site: ActivationGrid(*grid) for site, grid in header.get("activations", {}).items()}
    return header.get("variant"), weights, rest, ranges


def stored_bytes(
    network: nn.Module, variant: Variant, patterns: Mapping[str, Bits] | None = None
) -> int:
    """Size in bytes of a variant's file: exact, apart from the ranges of activations (1%).

    Where bits are chosen, it is the most that the budget allows, and without one that of
    `uniform_bits`.
    """
    rest, weights, ranges = dict(network.state_dict()), {}, Ranges()
    packed = {} if variant.engine else layer_bits(network, variant, patterns)
    for key, bits in packed.items():
        if bits == UNQUANTIZED:
            continue
        weight = rest.pop(key)
        if variant.is_control:
            rest[key] = weight.float()
        else:
            rows, columns = weight.flatten(1).shape
            scale, zero = torch.ones(rows, 1), torch.zeros(rows, 1, dtype=torch.uint8)
            codes = torch.zeros(rows, columns, dtype=torch.uint8)
            grid = Grid(scale, zero, LEVELS[bits])
            weights[key] = QuantizedWeight(codes, grid, tuple(weight.shape))
            if variant.activation_bits is not None:  # one range per layer, and typical digits
                ranges[layer_name(key)] = ActivationGrid(0.012345678901234567, 100, 256)
    size = len(pack_network(QuantizedNetwork(variant, weights, rest, ranges)))
    if variant.mean_bits is None or variant.is_control:
        return size
    rows = {key: network.get_parameter(key).flatten(1) for key in packed}
    spent = sum(weight_bytes(len(rows[key]), rows[key].shape[1], packed[key]) for key in packed)
    numbers = {id(network.get_parameter(key)): rows[key].numel() for key in packed}
    budget = variant.mean_bits / 8 * sum(numbers.values())
    return int(size - spent + budget)
