"""Features of several layers as one row per example, for REAL's feature fusion buffer.

The paper (arXiv:2403.13522) says that features of several layers of the backbone are fused before
the random layer, not how. This is a reconstruction: averages over the image, each standardised by
its mean and deviation over the base classes' training examples, one after another.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Scale(NamedTuple):
    """Mean and standard deviation of each fused feature; a constant feature's deviation is 1."""

    mean: Float64[Tensor, " columns"]
    deviation: Float64[Tensor, " columns"]


def pool(
    maps: Sequence[Float[Tensor, "batch ..."]],
) -> Float[Tensor, "batch columns"]:
    """Average each channel of each layer's output over the image; rows stay as they are."""
    return torch.cat([layer.flatten(2).mean(2) if layer.ndim > 2 else layer for layer in maps], 1)


def measure(batches: Iterable[Tensor]) -> Scale:
    """Mean and deviation of each feature over all rows of some batches, in float64.

    Raises:
        ValueError: there is no row.
    """
    rows, first = 0, None
    total = square = torch.zeros(())
    for batch in batches:
        values = batch.double()
        first = values[:1] if first is None else first
        values = values - first  # else the squares of a far-off mean hide a small deviation
        rows += len(values)
        total, square = total + values.sum(0), square + values.square().sum(0)
    if first is None or not rows:
        raise ValueError(
            "Features are standardised by the base classes' examples, got none. Give the first "
            "task a member."
        )
    mean = total / rows
    variance = (square / rows - mean.square()).clamp(min=0)
    constant = variance <= 1e-12 * (square / rows)
    return Scale(first[0] + mean, torch.where(constant, 1.0, variance.sqrt()))


def fuse(pooled: Float[Tensor, "batch columns"], scale: Scale) -> Float[Tensor, "batch columns"]:
    """Standardise each feature."""
    return ((pooled - scale.mean) / scale.deviation).to(pooled.dtype)
