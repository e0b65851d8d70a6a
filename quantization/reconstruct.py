"""Quantize a network unit by unit, each given what the already quantized ones before it put out."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from quantization.calibration import DivergedError, LayerRecord
from quantization.lockstep import Answer, lockstep
from quantization.rounding.gram import Layer
from quantization.rounding.grid import Bits, Grid, dequantize
from quantization.rounding.nearest import nearest
from quantization.trace import Operation

LARGEST = 1e15  # sums of squares of more do not fit in float32
CHUNK = 128  # images that a network is run on at a time

Codes = UInt8[Tensor, "rows columns"]


class Plan(NamedTuple):
    """One layer that is to be quantized: its weight as rows, and the grid for them."""

    layer: Layer
    rows: Float[Tensor, "rows columns"]
    grid: Grid
    bits: Bits


class Fitted(NamedTuple):
    """Codes of one layer, and the relative error with nearest codes and with these."""

    codes: Codes
    error_before: float | None
    error_after: float | None


class Unit(NamedTuple):
    """What is reconstructed as a whole.

    Attributes:
        name: of the module in its network.
        module: a block, or a single layer.
        plans: of its layers, by their names in the network, in the order of execution.
        scales: the factor at which each layer's output is added into the unit's output, if it is.
        tail: what follows a single layer, before anything else uses its output.
        importance: of the squared error of each output, mean 1; None for a plain mean.
    """

    name: str
    module: nn.Module
    plans: dict[str, Plan]
    scales: dict[str, Float[Tensor, " rows"] | None]
    tail: list[Operation]
    importance: Float[Tensor, "images channels *places"] | None

    def forward(self, rows: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """What the module gives with other weights."""
        weights = {}
        for name, some in rows.items():
            key = f"{name}.weight".removeprefix(self.name).removeprefix(".")
            weights[key] = some.reshape(self.plans[name].layer.weight.shape)
        outputs: Tensor = functional_call(self.module, weights, (inputs,))
        return outputs

    def forward_tail(self, rows: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The same, and what follows."""
        outputs = self.forward(rows, inputs)
        return reduce(lambda value, operation: operation(value), self.tail, outputs)


Fit = Callable[[Unit, Sequence[Tensor], torch.Generator], dict[str, Fitted]]


def reconstruct(
    network: nn.Module,
    images: Float[Tensor, "images channels height width"],
    units: Sequence[Unit],
    fit: Fit,
    generator: torch.Generator,
) -> tuple[dict[str, Codes], list[LayerRecord]]:
    """Quantize the units in the order in which the network calls them.

    The network runs once on two streams side by side, halves of one batch: what full precision
    gives at each place, and what the layers that are already quantized give.

    Args:
        network: in evaluation mode, which is left as it is.
        images: that it is run on.
        units: of the network.
        fit: finds codes for a unit's layers from its inputs, chunks of both streams.
        generator: of everything random, on the CPU.

    Returns:
        Codes by the names of layers, and what became of each.

    Raises:
        ValueError: a unit's inputs or outputs are not finite; as `lockstep`.
    """
    by_name = {unit.name: unit for unit in units}
    rows: dict[str, dict[str, Tensor]] = {}
    codes: dict[str, Codes] = {}
    records: list[LayerRecord] = []

    def visit(name: str, streams: Sequence[Tensor]) -> Answer:
        unit = by_name[name]
        if name not in rows:
            started = time.perf_counter()
            check_finite(name, (stream.chunk(2)[0] for stream in streams))
            fitted = fit(unit, streams, generator)
            codes.update((layer, each.codes) for layer, each in fitted.items())
            rows[name] = {
                layer: dequantize(each.codes, unit.plans[layer].grid)
                for layer, each in fitted.items()
            }
            seconds = (time.perf_counter() - started) / len(fitted)
            for layer, each in fitted.items():
                records.append(make_record(name, layer, unit.plans[layer], each, seconds))
        return partial(answer, unit)

    def answer(unit: Unit, stream: Tensor) -> Tensor:
        full, quantized = stream.chunk(2)
        outputs = unit.module(full)
        check_finite(unit.name, [outputs], "gives")
        return torch.cat([outputs, unit.forward(rows[unit.name], quantized)])

    chunks = [chunk.repeat(2, 1, 1, 1) for chunk in torch.split(images, CHUNK)]
    with torch.no_grad():
        lockstep(network, {unit.name: unit.module for unit in units}, chunks, visit)
    return codes, records


def check_finite(name: str, values: Iterable[Tensor], verb: str = "is given") -> None:
    """Raise `DivergedError` if full precision gives a layer or block such values."""
    if not all((some.abs() < LARGEST).all() for some in values):  # NaN is not less either
        raise DivergedError(
            f"`{name}` {verb} values that are not finite, or beyond {LARGEST:g}, on the calibration"
            " images. The training diverged: lower the learning rate, or train the model from"
            " another start."
        )


def make_record(unit: str, name: str, plan: Plan, fitted: Fitted, seconds: float) -> LayerRecord:
    """What became of a layer."""
    flipped = (fitted.codes != nearest(plan.rows, plan.grid)).float().mean().item()
    errors = fitted.error_before, fitted.error_after
    return LayerRecord(name, unit, plan.bits, plan.rows.numel(), flipped, *errors, seconds)
