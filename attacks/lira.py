"""LiRA: how likely is the target's confidence under shadow models with and without the example.

Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles",
arXiv:2112.03570, Algorithm 1; code in google-research/privacy, `mi_lira_2021/plot.py`.
Notation: phi of the target, and of each example and query the location mu and spread sd of the
shadows' phi, once over those trained on the example ("in") and once over the others ("out").
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.slices import Sliced, slices_of

Spread = Literal["auto", "example", "fixed"]
Location = Literal["median", "mean"]

# Signals of one query gathered at once: 1 MB, which stays in a core's own cache. Not a power of
# two, which would put all models of an example in the same few places of it: twice the time.
_BLOCK = 250_000


class Fit(NamedTuple):
    """Location and population std of each query and example over the shadows of one side."""

    location: Float[Tensor, "queries examples"]
    std: Float[Tensor, "queries examples"]
    pooled: Float[Tensor, "queries 1"]  # root mean square residual over all examples
    fewest: int  # smallest number of shadows of an example


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
            mean square of a query's residuals about their examples' locations; `auto` is `fixed`
            if some example has fewer than 32 shadows on either side.
        location: centre of an example's shadows; the median shrugs off a stray model.

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
    """As `lira`, from shadows that were fitted before."""
    fewest = min(inside.fewest, outside.fewest)
    log_in = _log_normal(target, inside.location, _spread(inside, spread, fewest))
    log_out = _log_normal(target, outside.location, _spread(outside, spread, fewest))
    return (log_in - log_out).mean(-2)


def lira_offline(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    spread: Spread = "auto",
    location: Location = "median",
    two_sided: bool = False,
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how unusually high the target's phi is for a model without the example.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; only those without the example count.
        included: whether that shadow model trained on that example.
        spread: as for `lira`, over the "out" shadows.
        location: as for `lira`.
        two_sided: score by -log N(phi; mu_out, sd_out) as the authors' code does, which also takes
            an unusually low phi for a member's (AUC 0.626 against 0.753 on synthetic signals).

    Returns:
        Mean over queries of log Phi((phi - mu_out) / sd_out), float64.

    Raises:
        ValueError: an example has fewer than two shadows without it.
    """
    (outside,) = fit_sides(shadows, (~included,), location)
    return lira_offline_fitted(target, outside, spread, two_sided)


def lira_offline_fitted(
    target: Float[Tensor, "*targets queries examples"],
    outside: Fit,
    spread: Spread = "auto",
    two_sided: bool = False,
) -> Float[Tensor, "*targets examples"]:
    """As `lira_offline`, from shadows that were fitted before."""
    scale = _spread(outside, spread, outside.fewest)
    if two_sided:
        return -_log_normal(target, outside.location, scale).mean(-2)
    z = (target.double() - outside.location) / scale
    # log Phi is -0.0 for every z above 38.5: there 1e-300 z is the whole score, and z still ranks.
    # Below 35 it is beyond -1e-268, which absorbs 1e-300 z exactly; in between both grow with z.
    log_phi: Tensor = torch.special.log_ndtr(z)
    return log_phi.mean(-2) + 1e-300 * z.mean(-2)


def lira_carlini(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    online: bool,
    fixed: bool,
) -> Float[Tensor, "*targets examples"]:
    """Score as the authors' code does, flaws included, to compare with published numbers.

    Every example keeps only its first n shadows a side, n being the smallest count of any example
    (on coin-flip splits AUC 0.74 became 0.59); a spread is floored by adding 1e-30; the fixed one
    is the std of all values rather than residuals, online that of the "in" values for both sides;
    offline is two-sided.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model.
        included: whether that shadow model trained on that example.
        online: `generate_ours`, else `generate_ours_offline`.
        fixed: its `fix_variance`.

    Returns:
        Mean over queries of log N_in - log N_out, or of -log N_out; its sign turned so that, as
        everywhere, higher means likelier a member.

    Raises:
        ValueError: an example has fewer than two shadows on a side in use.
    """
    sides = _first(~included), _first(included)
    fits = fit_sides(shadows, sides if online else sides[:1], "median")
    overall = _std(shadows, sides[-1 if online else 0])
    logs = [
        _log_normal(target, fit.location, (overall if fixed else fit.std) + 1e-30) for fit in fits
    ]
    score = -logs[0] if not online else logs[1] - logs[0]
    return score.mean(-2)


def _std(shadows: Sliced, side: Bool[Tensor, "models examples"]) -> Float[Tensor, ""]:
    """Population std of all values that `side` marks."""
    count = side.sum() * shadows.shape[1]

    def total(of: Callable[[Tensor], Tensor]) -> Tensor:
        values = ((shadows[..., some].double(), side[:, None, some]) for some in slices_of(shadows))
        return torch.stack([of(x).where(mask, 0).sum() for x, mask in values]).sum()

    mean = total(lambda x: x) / count
    return (total(lambda x: (x - mean).square()) / count).sqrt()


def _first(side: Bool[Tensor, "models examples"]) -> Bool[Tensor, "models examples"]:
    """Keep the first shadows of each example, as many as the example with the fewest has."""
    return side & (side.cumsum(0) <= side.sum(0).min())


def fit_sides(
    shadows: Float[Sliced, "models queries examples"],
    sides: Sequence[Bool[Tensor, "models examples"]],
    location: Location = "median",
) -> list[Fit]:
    """Fit each example over the shadows that a side marks, for each side.

    Signals are read once, a slice of examples at a time, and are only then in float64.

    Raises:
        ValueError: an example has fewer than two shadows on a side.
    """
    counts = [side.sum(0) for side in sides]
    fewest = [int(count.min()) for count in counts]
    if min(fewest) < 2:
        raise ValueError(
            f"LiRA needs 2 shadow models or more on a side, got {min(fewest)} for some example. "
            "Train more shadows; `lira_offline` needs only those that did not train on it."
        )
    # allocated beforehand: what is kept between slices splits the memory that they leave free
    parts = torch.empty(len(sides), 3, *shadows.shape[1:], dtype=torch.float64)
    marks = torch.stack(list(sides))
    for some in slices_of(shadows):
        whole = parts[..., some], shadows[..., some], marks[..., some]
        blocks = (tensor.split(_BLOCK // len(whole[1]), -1) for tensor in whole)
        for part, values, marked in zip(*blocks, strict=True):
            part[:] = _fit_block(values, marked, location)
    fits = []
    for (centre, std, squares), count, few in zip(parts, counts, fewest, strict=True):
        pooled = (squares.sum(-1, keepdim=True) / count.sum()).sqrt()
        fits.append(Fit(centre, std, pooled, few))
    return fits


def _fit_block(
    values: Float[Tensor, "models queries examples"],
    sides: Bool[Tensor, "sides models examples"],
    location: Location,
) -> Float[Tensor, "sides 3 queries examples"]:
    """Return location, population std, and the sum of squared residuals about the location."""
    fits = torch.empty(len(sides), 3, *values.shape[1:], dtype=torch.float64)
    chosen = [(_places(side), side.sum(0)) for side in sides]
    for query, signals in enumerate(values.unbind(1)):
        near = signals.contiguous().view(-1).numpy()
        for fit, (places, count) in zip(fits, chosen, strict=True):
            # with its models side by side, an example is sorted and summed in a quarter of the time
            fit[:, query] = _fit(torch.from_numpy(near.take(places)), count, location)
    return fits


def _places(side: Bool[Tensor, "models examples"]) -> np.ndarray:
    """Positions in `[models, examples]` of each example's models of a side, `[examples, most]`.

    An example that has fewer than the most is filled up with models of the other side.
    """
    order = np.argsort(~side.numpy().T, axis=1, kind="stable")[:, : int(side.sum(0).max())]
    return order * len(order) + np.arange(len(order))[:, None]


def _fit(
    values: Float[Tensor, "examples most"], count: Int64[Tensor, " examples"], location: Location
) -> Float[Tensor, "3 examples"]:
    """As `_fit_block`, of one query and side: over the first `count` of each example's values.

    Moments are taken about the median, which is within a std of the mean: subtracting the square
    of that from the mean square loses no more than one bit, however far from 0 the signals are.
    """
    fewest, most = int(count.min()), values.shape[1]
    others = torch.arange(fewest, most) >= count[:, None]  # of the last columns
    values[:, fewest:].masked_fill_(others, torch.nan)
    values.numpy().sort(axis=1)  # NaN last; a diverged shadow's stays in
    low, high = (
        values.gather(1, middle[:, None]).double() for middle in ((count - 1) // 2, count // 2)
    )
    median = (low + high) / 2  # `torch.median` is the lower one, which is biased
    residuals = values - median
    residuals[:, fewest:].masked_fill_(others, 0)
    shift, squares = residuals.sum(1) / count, torch.linalg.vecdot(residuals, residuals) / count
    variance = squares - shift.square()
    if location == "mean":
        return torch.stack([median[:, 0] + shift, variance.sqrt(), count * variance])
    # not `squares`, which an infinite signal would make infinite: no spread, rather than NaN
    return torch.stack([median[:, 0], variance.sqrt(), count * (variance + shift.square())])


def _spread(fit: Fit, spread: Spread, fewest: int) -> Float[Tensor, "queries #examples"]:
    """Choose the spread and floor it: a low-bit head gives std 0, and one query then dominates."""
    fixed = spread == "fixed" or (spread == "auto" and fewest < 32)
    floor = (0.05 * fit.pooled).clamp_min(1e-3)
    return torch.maximum(fit.pooled if fixed else fit.std, floor)


def _log_normal(
    target: Float[Tensor, "*targets queries examples"],
    location: Float[Tensor, "queries examples"],
    std: Float[Tensor, "..."],
) -> Float[Tensor, "*targets queries examples"]:
    z = (target.double() - location) / std
    return -(z.square() + math.log(2 * math.pi)) / 2 - std.log()
