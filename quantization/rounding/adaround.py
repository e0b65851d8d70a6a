"""AdaRound and BRECQ as published: rounding up or down is learned by gradient descent."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from quantization.rounding.grid import Grid

LOOP_BATCH = 32  # images per step of AdaRound's and BRECQ's published loops
LOW, HIGH = -0.1, 1.1  # the sigmoid is stretched to this range so that it reaches 0 and 1


class Settings(NamedTuple):
    """Constants of the published loop.

    Attributes:
        iterations: steps of Adam.
        regularisation: weight of the term that pushes each rounding to 0 or 1, in units of the
            squared error of one position.
        batch: images per step.
        lr: learning rate of Adam.
        warmup: share of the steps before the regularisation term sets in.
        sharpest: exponent of that term when it sets in; it falls linearly to `bluntest`.
        bluntest: exponent at the end.
    """

    iterations: int = 20_000
    regularisation: float = 0.01
    batch: int = LOOP_BATCH
    lr: float = 1e-3
    warmup: float = 0.2
    sharpest: float = 20.0
    bluntest: float = 2.0


def learn_rounding(
    weights: Mapping[str, Float[Tensor, "_ _"]],
    grids: Mapping[str, Grid],
    forward: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    inputs: Float[Tensor, "images *_"],
    targets: Float[Tensor, "images *_"],
    settings: Settings,
    generator: torch.Generator,
    importance: Float[Tensor, "images *_"] | None = None,
    channels: int = 1,
) -> dict[str, UInt8[Tensor, "_ _"]]:
    """Learn for every weight whether to round it up or down.

    Minimises the squared error, summed over channels and averaged over images and positions, plus
    the sum over weights of 1 - |2 h - 1|^beta, where h is the soft rounding.

    Args:
        weights: rows of every layer that is learned, by name.
        grids: grid of every layer, by the same names.
        forward: maps rows by name, and inputs, to outputs.
        inputs: what the layers will be given once everything before them is quantized.
        targets: what the outputs should be: those of the full-precision network.
        settings: constants of the loop.
        generator: draws the order of images, on the CPU.
        importance: weight of each squared error, such as the Fisher information's diagonal.
        channels: axis of the outputs that has the channels.

    Returns:
        Codes of every layer, by name.

    Source: Nagel et al. 2020, arXiv:2004.10568, equations 21 to 25; for a block Li et al. 2021,
    arXiv:2102.05426, algorithm 1.
    """
    floors = {key: (w / grids[key].scale).floor() for key, w in weights.items()}
    variables = {key: _start(w / grids[key].scale - floors[key]) for key, w in weights.items()}
    optimizer = torch.optim.Adam(variables.values(), settings.lr, fused=True)
    warm = int(settings.warmup * settings.iterations)
    orders = _draw_orders(len(inputs), settings, generator).to(inputs.device)
    for iteration, chosen in enumerate(orders):
        with torch.enable_grad():
            up = {key: _rectified(variable) for key, variable in variables.items()}
            rows = {key: _place(floors[key] + up[key], grids[key]) for key in up}
            error = (forward(rows, inputs[chosen]) - targets[chosen]).square()
            if importance is not None:
                error = error * importance[chosen]
            places = error.numel() / error.shape[channels]
            loss = error.sum() / places
            if iteration >= warm:
                left = 1 - (iteration - warm) / max(1, settings.iterations - warm)
                beta = settings.bluntest + (settings.sharpest - settings.bluntest) * left
                unsure = sum((1 - (2 * h - 1).abs().pow(beta)).sum() for h in up.values())
                loss = loss + settings.regularisation * unsure
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return {
        key: (floors[key] + (variables[key] >= 0) + grids[key].zero)
        .clamp(0, grids[key].levels - 1)
        .byte()
        for key in variables
    }


def _draw_orders(
    images: int, settings: Settings, generator: torch.Generator
) -> Int64[Tensor, "iterations batch"]:
    """Draw the images of every step at once, so that no step waits for a copy to the device."""
    orders = torch.empty(settings.iterations, min(settings.batch, images), dtype=torch.long)
    for order in orders:
        order.copy_(torch.randperm(images, generator=generator)[: settings.batch])
    return orders


def _start(fraction: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The variable whose rectified sigmoid is the fraction that rounding down cuts off."""
    start: Tensor = -((HIGH - LOW) / (fraction - LOW) - 1).log()
    return start.requires_grad_()


def _rectified(variable: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    return (variable.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def _place(steps: Float[Tensor, "rows columns"], grid: Grid) -> Float[Tensor, "rows columns"]:
    """Weights at soft codes, clamped to the grid."""
    return ((steps + grid.zero).clamp(0, grid.levels - 1) - grid.zero) * grid.scale
