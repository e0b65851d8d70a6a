"""LiRA: how likely the target's confidence is under shadow models with and without the example.

Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles",
arXiv:2112.03570, Algorithm 1. The authors' own code, flaws included, is in `lira_carlini.py`.
Notation: phi is the target's; mu and sd are the location and spread of the shadows' phi on one
example and query, over the shadows that trained on the example ("in") or did not ("out").
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.slices import Sliced, slices_of

Spread = Literal["auto", "example", "fixed"]
Location = Literal["median", "mean"]

# Signals of one query gathered at once: 1 MB, which fits a core's own cache. Not a power of two,
# which would map all models of an example to the same few cache lines: twice the time.
_BLOCK = 250_000


class Fit(NamedTuple):
    """Location and population std of each query and example over the shadows on one side."""

    location: Float[Tensor, "queries examples"]
    std: Float[Tensor, "queries examples"]
    pooled: Float[Tensor, "queries 1"]  # root mean square residual over all examples
    fewest: int  # smallest number of shadows that an example has on this side


def lira(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    spread: Spread = "auto",
    location: Location = "median",
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how much likelier the target's phi is under "in" than under "out".

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; the target is none of them.
        included: whether that shadow model trained on that example.
        spread: `example` is the population std of an example's own shadows; `fixed` is the root
            mean square of all residuals of a query about their examples' locations; `auto` is
            `fixed` if any example has fewer than 32 shadows on either side.
        location: centre of an example's shadows; the median is robust to a stray model.

    Returns:
        Mean over queries of log N(phi; mu_in, sd_in) - log N(phi; mu_out, sd_out), in float64
        nats.

    Raises:
        ValueError: an example has fewer than two shadows on one side.
    """
    inside, outside = fit_sides(shadows, (included, ~included), location)
    return lira_fitted(target, inside, outside, spread)


def lira_fitted(
    target: Float[Tensor, "*targets queries examples"],
    inside: Fit,
    outside: Fit,
    spread: Spread = "auto",
) -> Float[Tensor, "*targets examples"]:
    """Score as `lira` does, from shadows that are already fitted."""
    fewest = min(inside.fewest, outside.fewest)
    log_in = log_normal(target, inside.location, floored_spread(inside, spread, fewest))
    log_out = log_normal(target, outside.location, floored_spread(outside, spread, fewest))
    return (log_in - log_out).mean(-2)


def lira_offline(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    spread: Spread = "auto",
    location: Location = "median",
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how unusually high the target's phi is for a model without the example.

    One-sided, unlike the authors' -log N(phi; mu_out, sd_out), which also takes an unusually low
    phi for a member's: AUC 0.753 instead of 0.626 on synthetic signals.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; only those without the example count.
        included: whether that shadow model trained on that example.
        spread: as for `lira`, over the "out" shadows.
        location: as for `lira`.

    Returns:
        Mean over queries of log Phi((phi - mu_out) / sd_out), float64.

    Raises:
        ValueError: an example has fewer than two shadows without it.
    """
    (outside,) = fit_sides(shadows, (~included,), location)
    return lira_offline_fitted(target, outside, spread)


def lira_offline_fitted(
    target: Float[Tensor, "*targets queries examples"],
    outside: Fit,
    spread: Spread = "auto",
) -> Float[Tensor, "*targets examples"]:
    """Score as `lira_offline` does, from shadows that are already fitted."""
    z = (target.double() - outside.location) / floored_spread(outside, spread, outside.fewest)
    # log Phi is -0.0 for every z above 38.5: there 1e-300 z is the whole score, and z still ranks.
    # For z below 35, log Phi is under -1e-268 and absorbs 1e-300 z; in between both grow with z.
    log_phi: Tensor = torch.special.log_ndtr(z)
    return log_phi.mean(-2) + 1e-300 * z.mean(-2)


def fit_sides(
    shadows: Float[Sliced, "models queries examples"],
    sides: Sequence[Bool[Tensor, "models examples"]],
    location: Location = "median",
) -> list[Fit]:
    """Fit the shadows that each side marks, for every query and example.

    Signals are read once, one slice of examples at a time, and converted to float64 only then.

    Raises:
        ValueError: an example has fewer than two shadows on a side.
    """
    counts = [side.sum(0) for side in sides]
    fewest = [int(count.min()) for count in counts]
    if min(fewest) < 2:
        raise ValueError(
            f"LiRA needs 2 shadow models or more on a side, got {min(fewest)} for an example. "
            "Train more shadows; `lira_offline` needs only those that did not train on it."
        )
    # allocated first: results kept between slices would fragment the memory that slices free
    moments = torch.empty(len(sides), 3, *shadows.shape[1:], dtype=torch.float64)
    marks = torch.stack(list(sides))
    for part in slices_of(shadows):
        tensors = moments[..., part], shadows[..., part], marks[..., part]
        blocks = (tensor.split(_BLOCK // len(tensors[1]), -1) for tensor in tensors)
        for block, values, marked in zip(*blocks, strict=True):
            block[:] = _fit_block(values, marked, location)
    fits = []
    for (centre, std, squares), count, few in zip(moments, counts, fewest, strict=True):
        pooled = (squares.sum(-1, keepdim=True) / count.sum()).sqrt()
        fits.append(Fit(centre, std, pooled, few))
    return fits


def _fit_block(
    values: Float[Tensor, "models queries examples"],
    sides: Bool[Tensor, "sides models examples"],
    location: Location,
) -> Float[Tensor, "sides 3 queries examples"]:
    """Return the location, the population std, and the squares of residuals about it, summed."""
    moments = torch.empty(len(sides), 3, *values.shape[1:], dtype=torch.float64)
    places = [(_places(side), side.sum(0)) for side in sides]
    for query, signals in enumerate(values.unbind(1)):
        flat = signals.contiguous().view(-1).numpy()
        for moment, (positions, count) in zip(moments, places, strict=True):
            # with its models side by side, an example is sorted and summed in a quarter of the time
            moment[:, query] = _fit(torch.from_numpy(flat.take(positions)), count, location)
    return moments


def _places(side: Bool[Tensor, "models examples"]) -> np.ndarray:
    """Positions in `[models, examples]` of each example's models on a side, `[examples, most]`.

    The row of an example with fewer than `most` is filled up with models of the other side.
    """
    order = np.argsort(~side.numpy().T, axis=1, kind="stable")[:, : int(side.sum(0).max())]
    return order * len(order) + np.arange(len(order))[:, None]


def _fit(
    values: Float[Tensor, "examples most"], count: Int64[Tensor, " examples"], location: Location
) -> Float[Tensor, "3 examples"]:
    """Return what `_fit_block` does, from the first `count` values of each example.

    Moments are taken about the median, which is within one std of the mean: subtracting the square
    of that distance from the mean square loses at most one bit, however far from 0 the signals are.
    """
    fewest, most = int(count.min()), values.shape[1]
    padding = torch.arange(fewest, most) >= count[:, None]  # in the last columns
    values[:, fewest:].masked_fill_(padding, torch.nan)
    values.numpy().sort(axis=1)  # NaN last, so that of a diverged shadow counts and stays
    low, high = (
        values.gather(1, middle[:, None]).double() for middle in ((count - 1) // 2, count // 2)
    )
    median = (low + high) / 2  # `torch.median` is the lower of the two, which is biased
    residuals = values - median
    residuals[:, fewest:].masked_fill_(padding, 0)
    shift, squares = residuals.sum(1) / count, torch.linalg.vecdot(residuals, residuals) / count
    variance = squares - shift.square()
    if location == "mean":
        return torch.stack([median[:, 0] + shift, variance.sqrt(), count * variance])
    # not `squares`: an infinite signal would make it infinite, and the score finite instead of NaN
    return torch.stack([median[:, 0], variance.sqrt(), count * (variance + shift.square())])


def floored_spread(fit: Fit, spread: Spread, fewest: int) -> Float[Tensor, "queries #examples"]:
    """Choose the spread and floor it: a low-bit head gives std 0, and one query would dominate."""
    fixed = spread == "fixed" or (spread == "auto" and fewest < 32)
    floor = (0.05 * fit.pooled).clamp_min(1e-3)
    return torch.maximum(fit.pooled if fixed else fit.std, floor)


def log_normal(
    target: Float[Tensor, "*targets queries examples"],
    location: Float[Tensor, "queries examples"],
    std: Float[Tensor, "..."],
) -> Float[Tensor, "*targets queries examples"]:
    """Logarithm of the normal density at the target's phi."""
    z = (target.double() - location) / std
    return -(z.square() + math.log(2 * math.pi)) / 2 - std.log()
