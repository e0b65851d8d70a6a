"""Worlds of a quantized head: heads with and without each example, rounded as the release was.

Behind a rounding no closed form gives the output of an example that was left out. But the weight of
the head without it is one, of rank one away from the head that learnt it, and this weight can be
rounded. Rows of a weight are rounded each by itself, so those of many such heads are one tall
matrix, and are rounded by one call.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from continual.leave_one_out import changed_weights
from continual.ridge import Ridge
from lightning_modules.regressions import Regression
from lightning_modules.worlds import Pool, solve_world
from quantization.round_rows import round_rows
from quantization.variant import Variant

NUMBERS = 2**23  # of the weights that are rounded at once: 64 MiB


def round_worlds(
    regression: Regression[Ridge],
    pool: Pool,
    seen: Float64[Tensor, "examples columns"],
    members: Bool[Tensor, "worlds examples"],
    images: Sequence[Int64[Tensor, " images"]],
    variant: Variant,
) -> dict[str, Tensor]:
    """Solve for heads on halves of the pool, and round each with and without every example.

    Args:
        regression: what learns.
        pool: what it learns, as the network at full precision sees it.
        seen: random features of the pool in the quantized network, which the rounded head is given.
        members: which examples each world learns.
        images: the pool examples that each world calibrates on.
        variant: how heads are rounded.

    Returns:
        By name, outputs `[worlds, examples, classes]` for every example of heads that learnt it,
        and of heads that did not.
    """
    inside, outside = [], []
    for own, chosen in zip(members, images, strict=True):
        learnt = own.to(seen.device)
        ridge = solve_world(regression, pool, own, len(pool.ends) - 1)
        given = variant, pool.rows.features[chosen], seen[chosen]
        as_it_is = seen.float() @ round_rows(ridge.weight.T, *given).T
        changed = torch.empty_like(as_it_is)
        together = max(1, NUMBERS // ridge.weight.numel())
        for batch in torch.split(torch.arange(len(seen), device=seen.device), together):
            rows, targets = pool.rows.features[batch], pool.targets[batch]
            weights = changed_weights(ridge, rows, targets, learnt[batch])
            rounded = round_rows(weights.flatten(0, 1), *given).view(weights.shape)
            changed[batch] = torch.einsum("ecd,ed->ec", rounded, seen[batch].float())
        inside.append(torch.where(learnt[:, None], as_it_is, changed))
        outside.append(torch.where(learnt[:, None], changed, as_it_is))
    return {"world_inside": torch.stack(inside), "world_outside": torch.stack(outside)}
