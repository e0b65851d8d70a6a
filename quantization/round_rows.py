"""Quantize rows of a linear layer whose inputs are known, without its network."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from quantization.rounding.descent import descend
from quantization.rounding.gptq import gptq
from quantization.rounding.gram import make_quadratic
from quantization.rounding.grid import Grid, dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import obc
from quantization.task import Codes
from quantization.variant import Variant

Inputs = Float[Tensor, "images columns"]
Solve = Callable[[Tensor, Grid, Tensor, Tensor], Codes]  # rows, grid, trained and present inputs


@torch.no_grad()
def round_rows(
    rows: Float[Tensor, "rows columns"], variant: Variant, trained: Inputs, present: Inputs
) -> Float[Tensor, "rows columns"]:
    """Quantize each row as a variant quantizes the rows of a network's last layer.

    Each by itself, so that rows of many layers with the same inputs may come together. `adaround`
    leaves out its last pass, over the exact error of few images, which behind no activation is the
    error that it has minimised.

    Args:
        rows: weights.
        variant: one of `ROUNDED`, with the same bits in all layers.
        trained: the layer's inputs on the calibration images, at full precision.
        present: the same in the network whose layers before are quantized.

    Returns:
        The weights that the chosen codes stand for.
    """
    bits, rows = variant.uniform_bits, rows.float()
    grid = find_grid(rows, bits, variant.is_symmetric(bits))
    codes = _SOLVE[variant.method](rows, grid, trained.float(), present.float())
    return dequantize(codes, grid)


def can_round(variant: Variant) -> bool:
    """Whether `round_rows` does what a variant does: methods of single rows, without suffixes."""
    return variant.method in _SOLVE and str(variant) == f"{variant.method}-w{variant.bits:g}"


def _gram(inputs: Inputs) -> Float[Tensor, "1 columns columns"]:
    return (inputs.T @ inputs)[None]


_SOLVE: dict[str, Solve] = {
    "nearest": lambda rows, grid, trained, present: nearest(rows, grid),
    "adaround": lambda rows, grid, trained, present: descend(
        rows, grid, make_quadratic(present[None], trained @ rows.T)
    ),
    "obc": lambda rows, grid, trained, present: obc(rows, grid, _gram(trained).double()),
    "gptq": lambda rows, grid, trained, present: gptq(rows, grid, _gram(present)),
}
ROUNDED = tuple(_SOLVE)
