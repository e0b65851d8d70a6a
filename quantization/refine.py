"""Codes improved by the exact error of a unit's output, its activation included."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.reconstruct import Codes, Unit
from quantization.rounding.descent import improve
from quantization.rounding.gram import Quadratic, grouped_product
from quantization.rounding.grid import dequantize

PASSES = 8  # over the layers of a unit, at most
WORTH = 0.99  # a pass that leaves more of the error is the last, unless a step was too bold
CAUTION = 1.5  # times the estimated curvature, and again whenever a step was too bold

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

    The error's slope is exact. Its curvature is modelled as that of K-FAC: a factor for each row,
    what a change of the layer's output does to the unit's, times the Gram matrix of the layer's
    inputs. Steepest descent solves that model on the grid; what does not lower the exact error is
    taken back, and a smaller step is made in the next pass.

    Args:
        unit: whose layers have codes.
        inputs: of the unit, by chunk.
        targets: what its output, with what follows it, should be.
        codes: by layer, to start from.
        grams: of each layer's inputs, summed over all of `inputs`.
        generator: of the random vectors that the curvature is measured with.

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
        before, bold = error, False
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
                bold = True
            del find_slopes  # it holds the graph of a pass, beside which the next is not to grow
        if error > WORTH * before and not bold:
            break
    return codes


def _try(
    unit: Unit, rows: Rows, inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[float, Callable[[], dict[str, Tensor]]]:
    """The error with these rows, and what gives its slopes: two in five steps need none."""
    leaves = {name: each.detach().requires_grad_() for name, each in rows.items()}
    errors, done = [], 0
    with torch.enable_grad():
        for some, target in zip(inputs, targets, strict=True):
            squares = (unit.forward_tail(leaves, some) - target).square()
            if unit.importance is not None:
                squares = squares * unit.importance[done : done + len(some)]
            errors.append(squares.sum())
            done += len(some)
        error = torch.stack(errors).double().sum()

    def slopes() -> dict[str, Tensor]:
        found = torch.autograd.grad(error, [*leaves.values()])
        return dict(zip(leaves, found, strict=True))

    return error.item(), slopes


def _curvature(
    unit: Unit, rows: Rows, inputs: Tensor, generator: torch.Generator
) -> dict[str, Float[Tensor, "_ 1"]]:
    """How much the unit's output changes, squared, with each row's output: diag(J^T J).

    Estimated with a random sign for each output, after Hutchinson.
    """
    seen: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        seen[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # what follows may work in place

    handles = [
        plan.layer.register_forward_hook(partial(watch, name)) for name, plan in unit.plans.items()
    ]
    try:
        with torch.enable_grad():
            end = unit.forward_tail(rows, inputs)
            signs = torch.randint(0, 2, end.shape, generator=generator).to(end) * 2 - 1
            slopes = torch.autograd.grad((end * signs).sum(), [seen[name] for name in rows])
    finally:
        for handle in handles:
            handle.remove()
    curvature = {}
    for name, slope in zip(rows, slopes, strict=True):
        channels = slope.ndim - 1 if isinstance(unit.plans[name].layer, nn.Linear) else 1
        each = slope.square().mean([axis for axis in range(slope.ndim) if axis != channels])
        # where next to nothing is passed on, steps are kept finite
        curvature[name] = each.clamp(min=1e-3 * each.mean().item() + 1e-30)[:, None]
    return curvature
