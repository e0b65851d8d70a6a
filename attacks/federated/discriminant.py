"""A linear discriminant between members and non-members, from parts that need not fit in memory."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RIDGE = 1e-2  # added to the variance of each feature, which is about 1


def discriminate(
    parts: Iterable[tuple[Float[Tensor, "_ features"], Bool[Tensor, " _"]]], ridge: float = RIDGE
) -> Float[Tensor, " features"]:
    """Weights of Fisher's linear discriminant with one covariance within both classes.

    For normal features of equal covariance, the weighted sum is the log-likelihood ratio up to a
    constant, however strongly rounds are correlated.

    Args:
        parts: features of some cells, and which of them are members.
        ridge: added to the covariance's diagonal.

    Returns:
        Weights; a larger sum means likelier a member.

    Raises:
        ValueError: there are no members, or no non-members.

    Source: Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x.
    """
    moments = [_moments(features, members) for features, members in parts]
    counts, sums, products = (torch.stack(part).sum(0) for part in zip(*moments, strict=True))
    if not counts.all():
        raise ValueError(
            f"A discriminant needs members and non-members, got {int(counts[1])} and "
            f"{int(counts[0])} cells. Train shadow federations with both."
        )
    means = sums / counts[:, None]
    within = (products - means.T @ sums) / counts.sum()
    diagonal = ridge * torch.eye(len(within), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(within + diagonal, means[1] - means[0])
    return weights


def _moments(
    features: Float[Tensor, "cells features"], members: Bool[Tensor, " cells"]
) -> tuple[
    Float[Tensor, " sides"], Float[Tensor, "sides features"], Float[Tensor, "features features"]
]:
    """Number and sum of the non-members and of the members, and the products of all cells."""
    features = features.double()
    sides = torch.stack([~members, members]).double()
    return sides.sum(1), sides @ features, features.T @ features
