"""Ridge regressions without one of their rows, or with one more, in closed form.

With f = W^T phi the outputs, e = y - f the residuals and h = phi^T R phi the leverage of a row:
a regression that had never seen it would have the residual e / (1 - h) on it. Only rows that
were learnt may be left out, and only others added; a row of a task that has not come yet counts
as one of the others.

Source: Sherman and Morrison 1950; Cook and Weisberg 1982 (deletion formulas).
"""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from continual.ridge import Ridge


def leverages(
    inverse: Float64[Tensor, "columns columns"], features: Float64[Tensor, "examples columns"]
) -> Float64[Tensor, " examples"]:
    """Each example's phi^T R phi: below 1 for a row that was learnt, any size for another."""
    return ((features @ inverse) * features).sum(1)


def leverage_if_learnt(
    leverage: Float64[Tensor, " examples"],
) -> Float64[Tensor, " examples"]:
    """The leverage that rows which were not learnt would have after being learnt, each alone."""
    return leverage / (1 + leverage)


def outputs_without(
    outputs: Float64[Tensor, "examples classes"],
    targets: Float64[Tensor, "examples classes"],
    leverage: Float64[Tensor, " examples"],
) -> Float64[Tensor, "examples classes"]:
    """What each row's outputs would be had it not been learnt, for rows that were.

    Args:
        outputs: W^T phi.
        targets: what the rows were learnt with.
        leverage: phi^T R phi.

    Raises:
        ValueError: a leverage is not below 1.
    """
    share = _below_one(leverage).unsqueeze(1)
    return (outputs - share * targets) / (1 - share)


def outputs_with(
    outputs: Float64[Tensor, "examples classes"],
    targets: Float64[Tensor, "examples classes"],
    leverage: Float64[Tensor, " examples"],
) -> Float64[Tensor, "examples classes"]:
    """What each row's outputs would be had it been learnt too, for rows that were not."""
    share = leverage_if_learnt(leverage).unsqueeze(1)
    return outputs + share * (targets - outputs)


def residuals_without_group(
    inverse: Float64[Tensor, "columns columns"],
    features: Float64[Tensor, "examples columns"],
    residuals: Float64[Tensor, "examples classes"],
) -> Float64[Tensor, "examples classes"]:
    """The residuals that rows would have had none of them been learnt, as one person's rows.

    Args:
        inverse: R of the regression that learnt them.
        features: the rows of the group.
        residuals: theirs, targets minus outputs.
    """
    hat = features @ inverse @ features.T
    identity = torch.eye(len(hat), dtype=hat.dtype, device=hat.device)
    without: Tensor = torch.linalg.solve(identity - hat, residuals)
    return without


def influence(
    inverse: Float64[Tensor, "columns columns"],
    queries: Float64[Tensor, "queries columns"],
    features: Float64[Tensor, "examples columns"],
    residuals: Float64[Tensor, "examples classes"],
) -> Float64[Tensor, "queries examples classes"]:
    """How much the outputs at each query owe to each row: outputs minus those without the row.

    Args:
        inverse: R of the regression that learnt the rows.
        queries: features at which outputs are read.
        features: the rows.
        residuals: theirs, targets minus outputs.

    Raises:
        ValueError: a leverage is not below 1.
    """
    projected = features @ inverse
    share = _below_one((projected * features).sum(1))
    return (queries @ projected.T).unsqueeze(2) * (residuals / (1 - share).unsqueeze(1))


def changed_weights(
    ridge: Ridge,
    rows: Float64[Tensor, "examples columns"],
    targets: Float64[Tensor, "examples classes"],
    learnt: Bool[Tensor, " examples"],
) -> Float64[Tensor, "examples classes columns"]:
    """The whole weight, transposed, had one row changed sides: one for each row.

    That is without the row if it was learnt, and with it if it was not. Formulas for outputs do not
    hold behind a rounding; these weights, rounded as the released one was, do.

    Raises:
        ValueError: the leverage of a row that was learnt is not below 1.
    """
    projected = rows @ ridge.inverse
    leverage = (projected * rows).sum(1)
    _below_one(leverage[learnt])
    residuals = targets - rows @ ridge.weight
    share = torch.where(learnt, -1 / (1 - leverage), 1 / (1 + leverage))
    update: Tensor = (share[:, None] * residuals)[:, :, None] * projected[:, None, :]
    return ridge.weight.T + update


def _below_one(leverage: Tensor) -> Tensor:
    """The same leverages, which those of rows that were learnt must be."""
    if not (leverage < 1).all():
        raise ValueError(
            f"Leverages of rows that were learnt must be below 1, got {leverage.max().item():.6g}. "
            "Leave out only rows that this regression learnt; if it did, raise `gamma`."
        )
    return leverage
