"""Improve codes by the exact error of a unit's output, including its activation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.reconstruct import Unit
from quantization.rounding.descent import improve
from quantization.rounding.gram import Quadratic, channel_axis, grouped_product
from quantization.rounding.grid import dequantize
from quantization.task import Codes

PASSES = 8  # most passes over the layers of a unit
WORTH = 0.99  # a pass that leaves a larger share of the error is the last, unless a step failed
CAUTION = 1.5  # factor on the estimated curvature, applied again whenever a step fails

Rows = Mapping[str, Float[Tensor, "_ _"]]


def refine(
    unit: Unit,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    codes: Mapping[str, Codes],
    grams: Mapping[str, Float[Tensor, "groups columns columns"]],
    generator: torch.Generator,
) -> dict[str, Codes]:
    """Lower the squared error of the unit's output, one layer after the other.

    The slope of the error is exact. Its curvature is modelled as in K-FAC: a factor for each row,
    which says how a change of the layer's output changes the unit's, times the Gram matrix of the
    layer's inputs. Steepest descent solves that model on the grid; a step that does not lower the
    exact error is undone, and the next pass takes a smaller step.

    Args:
        unit: the unit whose layers have codes.
        inputs: inputs of the unit, by chunk.
        targets: wanted outputs of the unit's tail, by chunk.
        codes: codes to start from, by layer.
        grams: Gram matrices of each layer's inputs, summed over all of `inputs`.
        generator: draws the random vectors that measure the curvature.

    Source: Li et al. 2021, arXiv:2102.05426, equation 10 for a block, and Nagel et al. 2020,
    arXiv:2004.10568, equation 25 for a layer; K-FAC: Martens & Grosse 2015, arXiv:1503.05671.
    """
    codes, plans = dict(codes), unit.plans
    rows = {name: dequantize(codes[name], plans[name].grid) for name in codes}
    curvature = _curvature(unit, rows, inputs[0], generator)
    caution = dict.fromkeys(codes, CAUTION)
    error, find_slopes = _try(unit, rows, inputs, targets)
    slopes = find_slopes()
    del find_slopes
    for _ in range(PASSES):
        before, failed = error, False
        for name in codes:
            factor = caution[name] * curvature[name]
            wanted = grouped_product(rows[name], grams[name]) - slopes[name] / (2 * factor)
            model = Quadratic(grams[name], wanted, torch.zeros_like(wanted[:, 0]))
            trial = improve(codes[name], plans[name].grid, model)
            tried = rows | {name: dequantize(trial, plans[name].grid)}
            new_error, find_slopes = _try(unit, tried, inputs, targets)
            if new_error < error:
                codes[name], rows, error, slopes = trial, tried, new_error, find_slopes()
            else:
                caution[name] *= CAUTION
                failed = True
            del find_slopes  # it holds a pass's graph, which must not overlap with the next one
        if error > WORTH * before and not failed:
            break
    return codes


def _try(
    unit: Unit, rows: Rows, inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[float, Callable[[], dict[str, Tensor]]]:
    """The error with these rows, and a function for its slopes: two in five steps need none."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in rows.items()}
    errors, done = [], 0
    with torch.enable_grad():
        for chunk, target in zip(inputs, targets, strict=True):
            squares = (unit.forward_tail(leaves, chunk) - target).square()
            if unit.importance is not None:
                squares = squares * unit.importance[done : done + len(chunk)]
            errors.append(squares.sum())
            done += len(chunk)
        error = torch.stack(errors).double().sum()

    def slopes() -> dict[str, Tensor]:
        gradients = torch.autograd.grad(error, [*leaves.values()])
        return dict(zip(leaves, gradients, strict=True))

    return error.item(), slopes


def _curvature(
    unit: Unit, rows: Rows, inputs: Tensor, generator: torch.Generator
) -> dict[str, Float[Tensor, "_ 1"]]:
    """Squared change of the unit's output per change of each row's output: diag(J^T J).

    Estimated with a random sign for each output, after Hutchinson.
    """
    layer_outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        layer_outputs[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # later operations may work in place

    handles = [
        plan.layer.register_forward_hook(partial(keep, name)) for name, plan in unit.plans.items()
    ]
    try:
        with torch.enable_grad():
            end = unit.forward_tail(rows, inputs)
            signs = torch.randint(0, 2, end.shape, generator=generator).to(end) * 2 - 1
            slopes = torch.autograd.grad((end * signs).sum(), [layer_outputs[n] for n in rows])
    finally:
        for handle in handles:
            handle.remove()
    curvature = {}
    for name, slope in zip(rows, slopes, strict=True):
        channels = channel_axis(unit.plans[name].layer) % slope.ndim
        factors = slope.square().mean([axis for axis in range(slope.ndim) if axis != channels])
        # keeps steps finite where almost nothing is passed on
        curvature[name] = factors.clamp(min=1e-3 * factors.mean().item() + 1e-30)[:, None]
    return curvature
