"""What a network computes and what it moves: FLOPs, bytes, and their ratio."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from quantization.attention import unfused, write_out
from quantization.calibration import Images
from quantization.follow import follow
from quantization.operation import tensors_in
from quantization.quantized_network import QuantizedNetwork, weight_keys
from quantization.rounding.grid import LEVELS, TERNARY, Bits
from quantization.trace import LAYERS
from quantization.variant import UNQUANTIZED

# `stored`: as our files pack codes, with a scale and a zero point per row; `aiq`: as the authors of
# arXiv:2512.14090 count, bits / 8 per weight without either, which no file can be as small as.
Counting = Literal["stored", "aiq"]
FLOAT, FULL = 4, 32  # bytes and bits of a number at full precision
PER_ROW = 5  # bytes: a float32 scale and a uint8 zero point
PER_BYTE = 5  # ternary codes


class LayerCost(NamedTuple):
    """One convolution or linear layer, on one image.

    Attributes:
        flops: floating-point operations, two per multiplication, of all its calls.
        rows: rows of its weight as a matrix.
        columns: columns of it; a grouped convolution has the inputs of one group.
        biases: numbers of its bias.
        inputs: numbers that it reads.
        outputs: numbers that it writes.
        logits: those of them that the network returns.
    """

    flops: int
    rows: int
    columns: int
    biases: int
    inputs: int
    outputs: int
    logits: int = 0

    def moved(self, bits: Bits) -> float:
        """Bytes that it reads and writes with activations of so many bits; logits are floats."""
        return (self.inputs + self.outputs - self.logits) * bits / 8 + FLOAT * self.logits

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


class Cost(NamedTuple):
    """A whole network, on a batch of images.

    Attributes:
        flops: floating-point operations.
        weight_bytes: bytes of weights and biases, read once per batch.
        activation_bytes: bytes of what every layer reads and writes.
        batch: images per batch.
    """

    flops: int
    weight_bytes: float
    activation_bytes: float
    batch: int = 1

    @property
    def bytes(self) -> float:
        """Bytes that move."""
        return self.weight_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, in FLOP per byte."""
        return self.flops / self.bytes


def weight_bytes(rows: int, columns: int, bits: Bits, counting: Counting = "stored") -> float:
    """Bytes of one layer's weight.

    Args:
        rows: output channels.
        columns: weights per output channel.
        bits: bits per weight; 32 is full precision.
        counting: see `Counting`.
    """
    if bits == UNQUANTIZED or counting == "aiq":
        return rows * columns * bits / 8
    packed = -(-columns // PER_BYTE) if bits == TERNARY else -(-columns * int(bits) // 8)
    return float(rows * (packed + PER_ROW))


@torch.no_grad()
def count_layers(network: nn.Module, images: Images) -> dict[str, LayerCost]:
    """Cost of each convolution and linear layer, by its weight's key in the state dict.

    As AIQ counts, nothing is fused: what a layer writes, the next reads. BatchNorm, activations,
    additions and pooling count nothing. A weight that several layers share comes once.

    Args:
        network: any network; it stays as it is.
        images: one image or more, of which the first runs through it.
    """
    work = copy.deepcopy(network).eval().float()
    image = images[:1].to(next(work.parameters()).device)
    keys, totals = weight_keys(network), dict[str, LayerCost]()
    first: dict[int, str] = {}
    written: dict[str, Tensor] = {}
    for key in keys.values():
        if key in network.state_dict():
            first.setdefault(id(network.get_parameter(key)), key)
    owner = {name: first.get(id(p)) for name, p in _weights(network, keys)}

    def add(
        name: str, layer: nn.Module, args: object, kwargs: dict[str, object], output: Tensor
    ) -> None:
        if (key := owner.get(name)) is None:
            return
        rows, columns = layer.get_parameter("weight").flatten(1).shape
        bias = layer.bias if isinstance(layer.bias, Tensor) else ()
        here = LayerCost(
            2 * output.numel() * columns,
            rows,
            columns,
            len(bias),
            sum(tensor.numel() for tensor in tensors_in((args, kwargs))),
            output.numel(),
        )
        before = totals.get(key)
        if before is not None:  # called again
            flops, inputs, outputs = (
                getattr(before, field) + getattr(here, field)
                for field in ("flops", "inputs", "outputs")
            )
            here = before._replace(flops=flops, inputs=inputs, outputs=outputs)
        totals[key], written[key] = here, output

    with unfused() as multiplied:
        write_out(work, image)
        follow(work, {}, image, multiplied)
        for name, module in work.named_modules():
            if isinstance(module, LAYERS):
                module.register_forward_hook(partial(add, name), with_kwargs=True)
        logits = work(image.clone())
    for key, output in written.items():
        if output is logits:
            totals[key] = totals[key]._replace(logits=output.numel())
    return {key: totals[key] for key in first.values() if key in totals}


def _weights(network: nn.Module, keys: Mapping[str, str]) -> list[tuple[str, Tensor]]:
    stored = network.state_dict()
    return [(name, network.get_parameter(key)) for name, key in keys.items() if key in stored]


def network_cost(
    layers: Mapping[str, LayerCost],
    bits: Mapping[str, Bits],
    activation_bits: int = FULL,
    batch: int = 1,
    counting: Counting = "stored",
) -> Cost:
    """Cost of a network whose layers have these bits.

    Args:
        layers: as `count_layers` counts them.
        bits: bits of each weight by its key; a layer without is at full precision.
        activation_bits: bits of what layers with codes read and write; layers at full precision
            read and write floats, and logits are floats.
        batch: images that are computed together, for which weights are read once.
        counting: how weights are counted.

    Raises:
        ValueError: a batch without images.
    """
    if batch < 1:
        raise ValueError(f"A batch must have 1 image or more, got {batch}.")
    weights = sum(
        weight_bytes(layer.rows, layer.columns, bits.get(key, UNQUANTIZED), counting)
        + FLOAT * layer.biases
        for key, layer in layers.items()
    )
    moved = sum(
        layer.moved(FULL if bits.get(key, UNQUANTIZED) == UNQUANTIZED else activation_bits)
        for key, layer in layers.items()
    )
    flops = sum(layer.flops for layer in layers.values())
    return Cost(flops * batch, weights, moved * batch, batch)


def describe_cost(
    layers: Mapping[str, LayerCost], quantized: QuantizedNetwork, batch: int = 1
) -> dict[str, Any]:
    """Cost of a quantized network beside that of full precision, as plain values for a record.

    Weights that are no codes, such as a control's, are at full precision.
    """
    width = {levels: bits for bits, levels in LEVELS.items()}
    bits = {key: width[weight.grid.levels] for key, weight in quantized.weights.items()}
    activations = quantized.variant.activation_bits or FULL
    costs = {
        "full": network_cost(layers, {}, batch=batch),
        "own": network_cost(layers, bits, activations, batch),
    }
    weights = sum(layer.weights for layer in layers.values())
    return {
        name: {**cost._asdict(), "intensity": cost.intensity, "weights": weights}
        for name, cost in costs.items()
    }
