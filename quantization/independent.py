"""Every layer by itself, on what the full-precision network gives it: OBC's protocol."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.calibration import Calibration, LayerRecord
from quantization.reconstruct import CHUNK, Codes, Fitted, Plan, check_finite, make_record
from quantization.rounding.gram import Quadratic, draw_positions, patches_at, places_an_image
from quantization.rounding.grid import Grid, dequantize
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import SPACE, obc
from quantization.variant import Variant

Grams = dict[str, Float[Tensor, "groups columns columns"]]


def quantize_independently(
    network: nn.Module,
    plans: Mapping[str, Plan],
    variant: Variant,
    calibration: Calibration,
    generator: torch.Generator,
) -> tuple[dict[str, Codes], list[LayerRecord]]:
    """Quantize each layer by `obc`.

    Args:
        network: at full precision, in evaluation mode.
        plans: of its layers.
        variant: `-paper` looks at all places of every image.
        calibration: images.
        generator: of the places that are looked at otherwise, on the CPU.

    Returns:
        Codes by the names of layers, and what became of each.

    Raises:
        DivergedError: a layer is given values that are not finite.
    """
    grams = _collect_grams(network, plans, variant, calibration, generator)
    codes: dict[str, Codes] = {}
    records = {}
    for names in _stacks(plans, grams):
        started = time.perf_counter()
        some = [plans[name] for name in names]
        grid = Grid(
            torch.cat([plan.grid.scale for plan in some]),
            torch.cat([plan.grid.zero for plan in some]),
            some[0].grid.levels,
        )
        rows = torch.cat([plan.rows for plan in some])
        stacked = obc(rows, grid, torch.cat([grams[name] for name in names]))
        codes |= zip(names, torch.split(stacked, [len(plan.rows) for plan in some]), strict=True)
        for name, plan in zip(names, some, strict=True):
            # kept in float64, for what float32 makes of a singular matrix has negative eigenvalues
            quadratic = Quadratic.around(plan.rows.double(), grams.pop(name))
            both = nearest(plan.rows, plan.grid), codes[name]
            errors = (quadratic.error(dequantize(c, plan.grid).double()) for c in both)
            seconds = (time.perf_counter() - started) / len(names)
            records[name] = make_record(name, name, plan, Fitted(codes[name], *errors), seconds)
    return codes, [records[name] for name in plans]


def _collect_grams(
    network: nn.Module,
    plans: Mapping[str, Plan],
    variant: Variant,
    calibration: Calibration,
    generator: torch.Generator,
) -> Grams:
    """Sum of x x^T over what each layer is given, in float64."""
    images = len(calibration.images) * max(1, calibration.rounds)
    grams: Grams = {}

    def add(name: str, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        plan = plans[name]
        check_finite(name, args)
        places = output[0].numel() // len(plan.rows)
        chosen = places_an_image(images, places, plan.rows.shape[1])
        at = draw_positions(len(output), places, places if variant.paper else chosen, generator)
        patches = patches_at(plan.layer, args[0], at)
        gram = torch.bmm(patches.mT, patches).double()
        grams[name] = grams[name].add_(gram) if name in grams else gram

    handles = [p.layer.register_forward_hook(partial(add, name)) for name, p in plans.items()]
    try:
        for batch in rounds_of(calibration):
            for chunk in torch.split(batch, CHUNK // 4 if variant.paper else CHUNK):
                network(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return grams


def rounds_of(
    calibration: Calibration,
) -> Iterator[Float[Tensor, "images channels height width"]]:
    """The images as they are, or augmented anew in each round."""
    if not calibration.rounds:
        yield calibration.images
    yield from map(calibration.augmented, range(calibration.rounds))


def _stacks(plans: Mapping[str, Plan], grams: Grams) -> Iterator[list[str]]:
    """Names of layers of one size, which `obc` takes as groups of a single one.

    Layers of 16x144, which are bound by the number of operations, so took half the time.
    """
    alike = defaultdict(list)
    for name, gram in grams.items():
        plan = plans[name]
        alike[len(plan.rows) // len(gram), gram.shape[1], plan.grid.levels].append(name)
    for (_, columns, _), names in alike.items():
        together = max(1, SPACE // columns**2)  # where matrices are large there is nothing to gain
        for start in range(0, len(names), together):
            yield names[start : start + together]
