"""How a unit's layers are fitted: by the published loop, by descent, or by GPTQ."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from quantization.reconstruct import CHUNK, Codes, Fitted, Unit
from quantization.refine import refine
from quantization.rounding.adaround import Settings, learn_rounding
from quantization.rounding.descent import descend
from quantization.rounding.gram import (
    Quadratic,
    add_up,
    draw_positions,
    make_quadratic,
    outputs_at,
    patches_at,
    places_an_image,
)
from quantization.rounding.grid import Grid, dequantize
from quantization.rounding.nearest import nearest

REFINED = 256  # images; 512 in half as many passes were no more accurate

Solve = Callable[[Tensor, Grid, Quadratic], Codes]


def fit_loop(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, settings: Settings
) -> dict[str, Fitted]:
    """Learn the rounding of all layers of a unit together, by its output with what follows."""
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    grids = {name: plan.grid for name, plan in unit.plans.items()}
    targets = torch.cat([unit.forward_tail(rows, stream.chunk(2)[0]) for stream in streams])
    inputs = torch.cat([stream.chunk(2)[1] for stream in streams])
    codes = learn_rounding(
        rows, grids, unit.forward_tail, inputs, targets, settings, generator, unit.importance
    )
    chunks = torch.split(inputs, CHUNK), torch.split(targets, CHUNK)
    before, after = (_error(unit, some, *chunks) for some in (_nearest(unit), codes))
    return {name: Fitted(codes[name], before, after) for name in codes}


def fit_descent(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator
) -> dict[str, Fitted]:
    """Start from the quadratic error of each layer, then lower the exact one of the unit.

    The exact one, with the activation, is the published loop's without its regulariser. It is
    looked at on the first `REFINED` images.
    """
    found = _fit_each(unit, streams, generator, descend)
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    images = sum(len(stream) for stream in streams) // 2
    some = streams[: math.ceil(REFINED / CHUNK)]
    inputs = [stream.chunk(2)[1] for stream in some]
    targets = [unit.forward_tail(rows, stream.chunk(2)[0]) for stream in some]
    share = sum(len(chunk) for chunk in inputs) / images
    grams = {name: gram * share for name, (_, gram) in found.items()}
    codes = {name: fitted.codes for name, (fitted, _) in found.items()}
    codes = refine(unit, inputs, targets, codes, grams, generator)
    plain = _nearest(unit)
    before, after = (_error(unit, some, inputs, targets) for some in (plain, codes))
    if after > before:  # a layer of a few weights, of which the activation hides most
        codes, after = plain, before
    return {name: Fitted(codes[name], before, after) for name in codes}


def fit_quadratic(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, solve: Solve
) -> dict[str, Fitted]:
    """Fit one layer after the other, each by the squared error of an output that is linear in it.

    That is the layer's own output; but where that is added into a block's, it is the block's, so
    that the layer makes up for all errors before it and beside it. No activation is in between.
    """
    found = _fit_each(unit, streams, generator, solve)
    return {name: fitted for name, (fitted, _) in found.items()}


def _fit_each(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator, solve: Solve
) -> dict[str, tuple[Fitted, Tensor]]:
    """As `fit_quadratic`, with the Gram matrices of the layers' inputs, over all their places."""
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    looked = _look(unit, rows, streams, generator)
    found = {}
    for name, plan in unit.plans.items():
        quadratic = add_up(_quadratics(unit, name, rows, streams, looked))
        codes = solve(plan.rows, plan.grid, quadratic)
        plain = dequantize(nearest(plan.rows, plan.grid), plan.grid)
        rows[name] = dequantize(codes, plan.grid)
        before, after = (quadratic.error(some, unit.scales[name]) for some in (plain, rows[name]))
        left_out = looked[0].places[name] / looked[0].positions[name].shape[1]
        found[name] = Fitted(codes, before, after), quadratic.gram * left_out
    return found


def _nearest(unit: Unit) -> dict[str, Codes]:
    return {name: nearest(plan.rows, plan.grid) for name, plan in unit.plans.items()}


def _error(
    unit: Unit, codes: Mapping[str, Codes], inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> float:
    """The relative squared error of the unit's output that codes leave."""
    rows = {name: dequantize(codes[name], plan.grid) for name, plan in unit.plans.items()}
    pairs = zip(inputs, targets, strict=True)
    left = torch.stack([(unit.forward_tail(rows, x) - t).square().sum() for x, t in pairs])
    power = torch.stack([target.square().sum() for target in targets]).sum()
    return (left.sum() / power.clamp(min=1e-30)).item()


class _Seen(NamedTuple):
    """What full precision gives at the places of one chunk that are looked at, by layer."""

    places: dict[str, int]  # of the layer's output in an image
    positions: dict[str, Int64[Tensor, "images chosen"]]
    outputs: dict[str, Float[Tensor, "chosen rows"]]
    ends: dict[str, Float[Tensor, "chosen rows"]]  # the unit's output there
    weights: dict[str, Float[Tensor, " chosen"]]  # of the error there


def _look(
    unit: Unit, rows: Mapping[str, Tensor], streams: Sequence[Tensor], generator: torch.Generator
) -> list[_Seen]:
    """Choose places of every layer's output, and note what should come out there."""
    images, done, looked = sum(len(stream) for stream in streams) // 2, 0, []
    for stream in streams:
        with _watched(unit) as (_, outputs):
            end = unit.forward(rows, stream.chunk(2)[0])
        seen = _Seen({}, {}, {}, {}, {})
        for name, plan in unit.plans.items():
            places = outputs[name][0].numel() // len(plan.rows)
            chosen = places_an_image(images, places, plan.rows.shape[1])
            at = draw_positions(len(end), places, chosen, generator)
            seen.places[name], seen.positions[name] = places, at
            seen.outputs[name] = outputs_at(plan.layer, outputs[name], at)
            if unit.scales[name] is not None:
                seen.ends[name] = outputs_at(plan.layer, end, at)
            if unit.importance is not None and outputs[name].shape[2:] == end.shape[2:]:
                here = unit.importance[done : done + len(end)].mean(1, keepdim=True)
                seen.weights[name] = outputs_at(plan.layer, here, at).flatten()
        done += len(end)
        looked.append(seen)
    return looked


def _quadratics(
    unit: Unit,
    name: str,
    rows: Mapping[str, Tensor],
    streams: Sequence[Tensor],
    looked: list[_Seen],
) -> Iterator[Quadratic]:
    """The error of one layer on each chunk, given the other layers' weights as they are now."""
    plan, scale = unit.plans[name], unit.scales[name]
    for stream, seen in zip(streams, looked, strict=True):
        at = seen.positions[name]
        with _watched(unit, until=name if scale is None else None) as (inputs, outputs):
            end = unit.forward(rows, stream.chunk(2)[1])
        target = seen.outputs[name]
        if scale is not None:
            missing = seen.ends[name] - outputs_at(plan.layer, end, at)
            # a channel that is hardly passed on cannot make up for the others
            passed = scale.abs() > 1e-2 * scale.abs().mean()
            missing = missing / torch.where(passed, scale, torch.inf)
            target = outputs_at(plan.layer, outputs[name], at) + missing
        if plan.layer.bias is not None:
            target = target - plan.layer.bias
        patches = patches_at(plan.layer, inputs[name], at)
        if name in seen.weights:
            root = seen.weights[name].sqrt()[:, None]
            patches, target = patches * root, target * root
        yield make_quadratic(patches, target)


class _Reached(Exception):
    """The layer that a pass was made for has been given its inputs."""


@contextmanager
def _watched(
    unit: Unit, until: str | None = None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Note what the unit's layers are given and what they give, and stop at `until`."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def before(name: str, module: nn.Module, args: tuple[Tensor]) -> None:
        inputs[name] = args[0]
        if name == until:
            raise _Reached

    def after(name: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        outputs[name] = output.clone()  # what follows may work in place

    handles = []
    for name, plan in unit.plans.items():
        handles.append(plan.layer.register_forward_pre_hook(partial(before, name)))
        handles.append(plan.layer.register_forward_hook(partial(after, name)))
    try:
        with suppress(_Reached):
            yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()
