"""Quantize a network unit by unit, each on the outputs of the quantized units before it."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from quantization.axes import check_axes, find_axes
from quantization.calibration import CHUNK, check_finite
from quantization.fisher import fisher_diagonal
from quantization.lockstep import Answer, lockstep
from quantization.operation import Operation
from quantization.rounding.grid import dequantize
from quantization.task import Codes, Fitted, LayerPlan, LayerRecord, Solution, Task, make_record


class Unit(NamedTuple):
    """A block or a single layer whose output is reconstructed as a whole.

    Attributes:
        name: name of the module in its network.
        module: the block or layer.
        plans: its layers, by their names in the network, in order of execution.
        scales: factor at which each layer's output is added into the unit's output; None if it is
            not simply added.
        tail: operations that follow a single layer before anything else uses its output.
        importance: weight of the squared error of each output, mean 1; None for a plain mean.
        axes: axis of its own values, and of its layers', along which the images lie, by name.
    """

    name: str
    module: nn.Module
    plans: dict[str, LayerPlan]
    scales: dict[str, Float[Tensor, " rows"] | None]
    tail: list[Operation]
    importance: Float[Tensor, "images channels *places"] | None
    axes: Mapping[str, int]

    def forward(self, rows: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The module's output with the weights `rows`, from inputs with the images first."""
        weights = {}
        for name, weight in rows.items():
            key = f"{name}.weight".removeprefix(self.name).removeprefix(".")
            weights[key] = _shape(weight, self.plans[name].layer.weight)
        axis = self.axes[self.name]
        outputs: Tensor = functional_call(self.module, weights, (inputs.transpose(0, axis),))
        return outputs.transpose(0, axis)

    def forward_tail(self, rows: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The output of the module and its tail with the weights `rows`."""
        outputs = self.forward(rows, inputs)
        return reduce(lambda value, operation: operation(value), self.tail, outputs)


def _shape(rows: Float[Tensor, "rows columns"], like: Tensor) -> Tensor:
    """Rows as a layer's weight, in its layout in memory too: convolutions compute in that of both.

    With channels last, two-bit AdaRound of a resnet20 took 15 to 18% less CPU time, and BRECQ 5 to
    8% (512 images, one thread, twice in turns).
    """
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return rows.reshape(like.shape).contiguous(memory_format=layout)


FitUnit = Callable[[Unit, Sequence[Tensor], torch.Generator], dict[str, Fitted]]


def make_units(task: Task) -> list[Unit]:
    """The blocks, and every layer outside them, in the order in which the network calls them."""
    trace, plans, images = task.trace, task.plans, task.calibration.images
    layers = [name for name in trace.layers if name in plans]
    axes = find_axes(trace.network, {n: trace.modules[n] for n in [*task.blocks, *layers]}, images)
    blocks = [name for name in task.blocks if name in axes]
    check_axes(trace, [name for name in layers if name not in axes])
    layers_by_unit: dict[str, list[str]] = {}
    for layer in layers:
        unit = next((name for name in blocks if layer.startswith(f"{name}.")), layer)
        layers_by_unit.setdefault(unit, []).append(layer)
    importance: dict[str, Tensor] = {}
    if task.fisher:
        ends = {
            name: trace.modules[name]
            for name in layers_by_unit
            if name not in plans or not trace.tail(name)  # a block's error is at its own end
        }
        importance = fisher_diagonal(trace.network, ends, images, task.generator(), axes)
    return [
        Unit(
            name,
            trace.modules[name],
            {layer: plans[layer] for layer in layers},
            {la: trace.scale_into(la, name) if name in blocks else None for la in layers},
            trace.tail(name) if name in plans else [],
            importance.get(name),
            axes,
        )
        for name, layers in layers_by_unit.items()
    ]


def reconstruct(task: Task, fit: FitUnit) -> Solution:
    """Quantize the units in the order in which the network calls them.

    The network runs once on two streams side by side, as halves of one batch: the full-precision
    values at each place, and the values after the layers that are already quantized.

    Args:
        task: the network, its layers and the images.
        fit: finds codes for a unit's layers from its inputs, chunks of both streams.

    Returns:
        Codes by layer, and a record of each.

    Raises:
        DivergedError: a unit's inputs or outputs are not finite.
        ValueError: see `lockstep` and `check_axes`.
    """
    units, generator = {unit.name: unit for unit in make_units(task)}, task.generator()
    fit = task.stand_in or fit
    rows: dict[str, dict[str, Tensor]] = {}
    codes: dict[str, Codes] = {}
    records: list[LayerRecord] = []

    def visit(name: str, streams: Sequence[Tensor]) -> Answer:
        unit = units[name]
        if name not in rows:
            started = time.perf_counter()
            check_finite(name, (stream.chunk(2)[0] for stream in streams))
            fits = fit(unit, streams, generator)
            codes.update((layer, fitted.codes) for layer, fitted in fits.items())
            rows[name] = {
                layer: dequantize(fitted.codes, unit.plans[layer].grid)
                for layer, fitted in fits.items()
            }
            seconds = (time.perf_counter() - started) / len(fits)
            for layer, fitted in fits.items():
                records.append(make_record(name, layer, unit.plans[layer], fitted, seconds))
        return partial(answer, unit)

    def answer(unit: Unit, stream: Tensor) -> Tensor:
        full, quantized = stream.chunk(2)
        outputs = unit.forward({}, full)
        check_finite(unit.name, [outputs], "gives")
        if task.alone:
            return torch.cat([outputs, outputs])
        return torch.cat([outputs, unit.forward(rows[unit.name], quantized)])

    # not `repeat`, which loses the layout in memory
    chunks = [torch.cat([chunk, chunk]) for chunk in torch.split(task.calibration.images, CHUNK)]
    with torch.no_grad():
        stops = {name: unit.module for name, unit in units.items()}
        axes = {name: unit.axes[name] for name, unit in units.items()}
        lockstep(task.trace.network, stops, chunks, visit, axes)
    return codes, records
