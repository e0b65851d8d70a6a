"""Fit the layers of one unit: by the published loop, by descent, or layer by layer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from quantization.calibration import CHUNK
from quantization.operation import only_tensor
from quantization.reconstruct import Unit
from quantization.refine import refine
from quantization.rounding.adaround import Settings, learn_rounding
from quantization.rounding.descent import descend
from quantization.rounding.gram import (
    Layer,
    Quadratic,
    add_up,
    channel_axis,
    draw_positions,
    make_quadratic,
    outputs_at,
    patches_at,
    places_per_image,
)
from quantization.rounding.grid import Grid, dequantize
from quantization.rounding.nearest import nearest
from quantization.task import Codes, Fitted

REFINED = 256  # images; 512 in half as many passes were no more accurate

SolveQuadratic = Callable[[Tensor, Grid, Quadratic], Codes]


def fit_loop(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, settings: Settings
) -> dict[str, Fitted]:
    """Learn the rounding of all layers of a unit together, by the output of its tail."""
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    grids = {name: plan.grid for name, plan in unit.plans.items()}
    targets = torch.cat([unit.forward_tail(rows, stream.chunk(2)[0]) for stream in streams])
    inputs = torch.cat([stream.chunk(2)[1] for stream in streams])
    last, axis = [*unit.plans.values()][-1], 1
    if targets.shape[-1] == len(last.rows):  # tokens, unless they were put elsewhere
        axis = channel_axis(last.layer)
    codes = learn_rounding(
        rows, grids, unit.forward_tail, inputs, targets, settings, generator, unit.importance, axis
    )
    chunks = torch.split(inputs, CHUNK), torch.split(targets, CHUNK)
    before, after = (_error(unit, choice, *chunks) for choice in (_nearest(unit), codes))
    return {name: Fitted(codes[name], before, after) for name in codes}


def fit_descent(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator
) -> dict[str, Fitted]:
    """Start from the quadratic error of each layer, then lower the exact error of the unit.

    The exact error, with the activation, is the published loop's without its regulariser. It is
    measured on the first `REFINED` images.
    """
    fits = _fit_layers(unit, streams, generator, descend)
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    images = sum(len(stream) for stream in streams) // 2
    streams = streams[: math.ceil(REFINED / CHUNK)]
    inputs = [stream.chunk(2)[1] for stream in streams]
    targets = [unit.forward_tail(rows, stream.chunk(2)[0]) for stream in streams]
    share = sum(len(chunk) for chunk in inputs) / images
    grams = {name: gram * share for name, (_, gram) in fits.items()}
    codes = {name: fitted.codes for name, (fitted, _) in fits.items()}
    codes = refine(unit, inputs, targets, codes, grams, generator)
    plain = _nearest(unit)
    before, after = (_error(unit, choice, inputs, targets) for choice in (plain, codes))
    if after > before:  # a layer of a few weights, most of which the activation hides
        codes, after = plain, before
    return {name: Fitted(codes[name], before, after) for name in codes}


def fit_quadratic(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, solve: SolveQuadratic
) -> dict[str, Fitted]:
    """Fit one layer after the other, each by the squared error of an output that is linear in it.

    That output is the layer's own. If it is added into the block's without an activation in
    between, it is the block's, so that the layer makes up for all errors before and beside it.
    """
    fits = _fit_layers(unit, streams, generator, solve)
    return {name: fitted for name, (fitted, _) in fits.items()}


def _fit_layers(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, solve: SolveQuadratic
) -> dict[str, tuple[Fitted, Tensor]]:
    """Each layer's result as `fit_quadratic`, and the Gram matrix of its inputs at all places."""
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    targets = collect_targets(unit, rows, streams, generator)
    fits = {}
    for name, plan in unit.plans.items():
        quadratic = add_up(quadratics(unit, name, rows, streams, targets))
        codes = solve(plan.rows, plan.grid, quadratic)
        plain = dequantize(nearest(plan.rows, plan.grid), plan.grid)
        rows[name] = dequantize(codes, plan.grid)
        choices = plain, rows[name]
        before, after = (quadratic.error(choice, unit.scales[name]) for choice in choices)
        upscale = targets[0].places[name] / targets[0].positions[name].shape[1]  # from the sample
        fits[name] = Fitted(codes, before, after), quadratic.gram * upscale
    return fits


def _nearest(unit: Unit) -> dict[str, Codes]:
    return {name: nearest(plan.rows, plan.grid) for name, plan in unit.plans.items()}


def _error(
    unit: Unit, codes: Mapping[str, Codes], inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> float:
    """The relative squared error of the unit's output with these codes."""
    rows = {name: dequantize(codes[name], plan.grid) for name, plan in unit.plans.items()}
    pairs = zip(inputs, targets, strict=True)
    left = torch.stack([(unit.forward_tail(rows, x) - t).square().sum() for x, t in pairs])
    power = torch.stack([target.square().sum() for target in targets]).sum()
    return (left.sum() / power.clamp(min=1e-30)).item()


class LayerTargets(NamedTuple):
    """Full-precision values at the sampled places of one chunk, by layer."""

    places: dict[str, int]  # places of the layer's output per image
    positions: dict[str, Int64[Tensor, "images chosen"]]
    outputs: dict[str, Float[Tensor, "chosen rows"]]
    ends: dict[str, Float[Tensor, "chosen rows"]]  # the unit's output there
    weights: dict[str, Float[Tensor, " chosen"]]  # weight of the error there


def collect_targets(
    unit: Unit, rows: Mapping[str, Tensor], streams: Sequence[Tensor], generator: torch.Generator
) -> list[LayerTargets]:
    """Sample places of every layer's output, and note the values wanted there."""
    images, done, chunks = sum(len(stream) for stream in streams) // 2, 0, []
    for stream in streams:
        with _watched(unit) as (_, outputs):
            end = unit.forward(rows, stream.chunk(2)[0])
        targets = LayerTargets({}, {}, {}, {}, {})
        for name, plan in unit.plans.items():
            places = outputs[name][0].numel() // len(plan.rows)
            parts = len(outputs[name])  # images, or windows of images
            all_parts = images * parts // len(end)
            chosen = places_per_image(all_parts, places, plan.rows.shape[1])
            at = draw_positions(parts, places, chosen, generator, end.device)
            targets.places[name], targets.positions[name] = places, at
            targets.outputs[name] = outputs_at(plan.layer, outputs[name], at)
            if unit.scales[name] is not None:
                targets.ends[name] = outputs_at(plan.layer, end, at)
            alike = _places(plan.layer, outputs[name]) == _places(plan.layer, end)
            if unit.importance is not None and alike:
                here = unit.importance[done : done + len(end)]
                here = here.mean(channel_axis(plan.layer), keepdim=True)
                targets.weights[name] = outputs_at(plan.layer, here, at).flatten()
        done += len(end)
        chunks.append(targets)
    return chunks


def _places(layer: Layer, outputs: Tensor) -> list[int]:
    """Sizes of the axes apart from that of the channels, as `layer` orders them."""
    sizes = list(outputs.shape)
    del sizes[channel_axis(layer)]
    return sizes


def quadratics(
    unit: Unit,
    name: str,
    rows: Mapping[str, Tensor],
    streams: Sequence[Tensor],
    targets: list[LayerTargets],
) -> Iterator[Quadratic]:
    """The error of one layer on each chunk, given the current weights of the other layers."""
    plan, scale = unit.plans[name], unit.scales[name]
    for stream, wanted in zip(streams, targets, strict=True):
        at = wanted.positions[name]
        with _watched(unit, until=name if scale is None else None) as (inputs, outputs):
            end = unit.forward(rows, stream.chunk(2)[1])
        target = wanted.outputs[name]
        if scale is not None:
            missing = wanted.ends[name] - outputs_at(plan.layer, end, at)
            # a channel that is hardly passed on cannot make up for other layers
            passed = scale.abs() > 1e-2 * scale.abs().mean()
            missing = missing / torch.where(passed, scale, torch.inf)
            target = outputs_at(plan.layer, outputs[name], at) + missing
        if plan.layer.bias is not None:
            target = target - plan.layer.bias
        patches = patches_at(plan.layer, inputs[name], at)
        if name in wanted.weights:
            root = wanted.weights[name].sqrt()[:, None]
            patches, target = patches * root, target * root
        yield make_quadratic(patches, target)


class _Reached(Exception):
    """The pass has reached the inputs of the layer it was run for."""


@contextmanager
def _watched(
    unit: Unit, until: str | None = None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Note the inputs and outputs of the unit's layers, and stop at the inputs of `until`."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def before(
        name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        given = cast(Tensor, only_tensor(module, args, kwargs))
        inputs[name] = given.transpose(0, unit.axes[name])
        if name == until:
            raise _Reached

    def after(name: str, module: nn.Module, args: object, output: Tensor) -> None:
        # later operations may work in place
        outputs[name] = output.clone().transpose(0, unit.axes[name])

    handles = []
    for name, plan in unit.plans.items():
        hook = plan.layer.register_forward_pre_hook(partial(before, name), with_kwargs=True)
        handles.append(hook)
        handles.append(plan.layer.register_forward_hook(partial(after, name)))
    try:
        with suppress(_Reached):
            yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()
