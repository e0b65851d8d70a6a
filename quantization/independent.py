"""Quantize each layer by itself on its full-precision inputs: OBC's protocol."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from quantization.calibration import CHUNK, check_finite
from quantization.operation import only_tensor
from quantization.rounding.gram import Quadratic, draw_positions, patches_at, places_per_image
from quantization.rounding.grid import Grid, dequantize
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import batch_space
from quantization.task import (
    Codes,
    Fitted,
    Gram,
    LayerPlan,
    Solution,
    Solve,
    Task,
    make_record,
    round_layers,
)


def quantize_independently(task: Task, solve: Solve) -> Solution:
    """Quantize each layer on the inputs that the full-precision network gives it.

    Args:
        task: the network, its layers and the images; `paper` looks at all places of every image
            instead of a sample.
        solve: maps a layer's rows, grid and Gram matrices to codes, each row by itself.

    Returns:
        Codes by layer, and a record of each.

    Raises:
        DivergedError: a layer's inputs are not finite.
    """
    plans = task.plans
    key = ("grams", *plans, task.paper, task.calibration.key)
    grams = dict(task.shared.once(key, lambda: _collect_grams(task)))
    if task.stand_in is not None:  # solving takes long, and depends on no network
        return round_layers(plans, nearest)
    codes: dict[str, Codes] = {}
    records = {}
    for names in _stacks(plans, grams):
        started = time.perf_counter()
        stack = [plans[name] for name in names]
        grid = Grid(
            torch.cat([plan.grid.scale for plan in stack]),
            torch.cat([plan.grid.zero for plan in stack]),
            stack[0].grid.levels,
        )
        rows = torch.cat([plan.rows for plan in stack])
        stacked = solve(rows, grid, torch.cat([grams[name] for name in names]))
        codes |= zip(names, torch.split(stacked, [len(plan.rows) for plan in stack]), strict=True)
        for name, plan in zip(names, stack, strict=True):
            # float64, because a singular matrix rounded to float32 has negative eigenvalues
            quadratic = Quadratic.around(plan.rows.double(), grams.pop(name))
            both = nearest(plan.rows, plan.grid), codes[name]
            errors = (quadratic.error(dequantize(c, plan.grid).double()) for c in both)
            seconds = (time.perf_counter() - started) / len(names)
            records[name] = make_record(name, name, plan, Fitted(codes[name], *errors), seconds)
    return codes, [records[name] for name in plans]


def _collect_grams(task: Task) -> dict[str, Gram]:
    """Sum of x x^T over the inputs of each layer, in float64."""
    calibration, generator = task.calibration, task.generator()
    images = len(calibration.images) * max(1, calibration.rounds)
    grams: dict[str, Gram] = {}

    def add(
        name: str,
        layer: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        output: Tensor,
    ) -> None:
        plan = task.plans[name]
        inputs = cast(Tensor, only_tensor(layer, args, kwargs))
        check_finite(name, [inputs])
        places = output[0].numel() // len(plan.rows)
        sampled = places_per_image(images, places, plan.rows.shape[1])
        chosen = places if task.paper else sampled
        at = draw_positions(len(output), places, chosen, generator, output.device)
        patches = patches_at(plan.layer, inputs, at)
        gram = torch.bmm(patches.mT, patches).double()
        grams[name] = grams[name].add_(gram) if name in grams else gram

    handles = [
        plan.layer.register_forward_hook(partial(add, name), with_kwargs=True)
        for name, plan in task.plans.items()
    ]
    try:
        for batch in calibration.batches():
            for chunk in torch.split(batch, CHUNK // 4 if task.paper else CHUNK):
                task.trace.network(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return grams


def _stacks(plans: Mapping[str, LayerPlan], grams: Mapping[str, Gram]) -> Iterator[list[str]]:
    """Names of layers of the same size, which are solved as groups of one layer.

    Small layers are limited by the number of operations: at 16x144 stacking halved the time.
    """
    alike = defaultdict(list)
    for name, gram in grams.items():
        plan = plans[name]
        alike[len(plan.rows) // len(gram), gram.shape[1], plan.grid.levels].append(name)
    for (_, columns, _), names in alike.items():
        space = batch_space(grams[names[0]].device)
        together = max(1, space // columns**2)  # with large matrices there is nothing to gain
        for start in range(0, len(names), together):
            yield names[start : start + together]
