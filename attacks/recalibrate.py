"""Recalibration: a target's signals on the scale of full-precision shadows, without its members.

Quantizing a target moves its phi, and full-precision shadows then expect it where it is not. The
attacker sees how far on a population, examples that no model trained on: there target and shadows
should agree. What is measured there, by predicted difficulty, is undone on the audited examples.

Why undoing it in the target is the same as moving the shadows, which would have to be fitted again
for each target. For one example and query let A(u) = c + b + r (u - c), with any c and b and r > 0.
If every shadow moves by A, the means of both sides move by A and both standard deviations grow by
r, so log N(phi; A mu, r sd) = log N(A^-1 phi; mu, sd) - log r for "in" and for "out": their
difference, LiRA's score, is that of A^-1 phi among the shadows as they were. Offline LiRA's z and
Attack-R's rank stay the same too, and only spreads that are pooled over examples, and floors of
spreads, do not. `recalibrate` is A^-1 with c = mu_out(x) and with b and r from the population.

No membership of the target is read, and "recalibrated" means no more than this: an attacker may do
it to any model whose outputs it sees.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.slices import Sliced, slices_of

# With 100 examples in a bin, the standard error of the offset is s / 10, where s is the spread of
# the shadows' phi, and that of the ratio of spreads is 1 / sqrt(200) = 7%. Members that leak lie
# about s from the non-members.
FEWEST = 100
# AUC of online LiRA on the demo, mean over its 16 variants: 0.617 with 50 in a bin, 0.620 with 100,
# 0.621 with 200 to 600, 0.619 with all 1,197 in one bin.
PER_BIN = 200
MOST_BINS = 20  # offset and ratio are smooth in the difficulty: more examples are better pooled


class Expected(NamedTuple):
    """What full-precision shadows expect of a model that trained on none of these examples.

    Attributes:
        outside: mean phi of the shadows without each audited example, in nats.
        population: mean phi of all shadows on each population example, which none trained on.
        variance: the shadows' variance on it, unbiased (divisor: shadows - 1).
        shadows: how many there are.
    """

    outside: Float[Tensor, "queries examples"]
    population: Float[Tensor, "queries population"]
    variance: Float[Tensor, "queries population"]
    shadows: int


class Moved(NamedTuple):
    """How a target differs from the shadows at some difficulties, for one query.

    Attributes:
        offsets: (difficulty, target's phi - expected phi) pairs, ascending, in nats.
        ratios: (difficulty, target's spread / shadows' spread) pairs.
    """

    offsets: Float[Tensor, "2 knots"]
    ratios: Float[Tensor, "2 bins"]


def expect(
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    population: Float[Sliced, "models queries population"],
) -> Expected:
    """Average the shadows' phi on each example, over shadows that did not train on it.

    Args:
        shadows: phi of the shadows on the audited examples, in nats.
        included: which shadow trained on which example.
        population: phi of the shadows on examples that none trained on.

    Raises:
        ValueError: every shadow trained on an example, or there are fewer than two shadows.
    """
    models, counts = len(included), (~included).sum(0)
    if models < 2 or not counts.all():
        raise ValueError(
            "Recalibration needs two shadows, and for each example one that did not train on it, "
            f"got {models} and {int(counts.min())}. Train more shadows."
        )
    outside = torch.empty(shadows.shape[1:], dtype=torch.float64)
    for part in slices_of(shadows):
        out = (~included[:, part])[:, None]
        # `where`, because 0 times the NaN of a diverged shadow would be NaN
        outside[:, part] = shadows[..., part].double().where(out, 0).sum(0) / counts[part]
    mean, variance = torch.empty(2, *population.shape[1:], dtype=torch.float64)
    for part in slices_of(population):
        phi = population[..., part].double()
        mean[:, part], variance[:, part] = phi.mean(0), phi.var(0)
    return Expected(outside, mean, variance, models)


def recalibrate(
    target: Float[Tensor, "*targets queries examples"],
    population: Float[Tensor, "*targets queries population"],
    expected: Expected,
) -> tuple[
    Float[Tensor, "*targets queries examples"], Float[Tensor, "*targets queries population"]
]:
    """Move a target's signals to where full-precision shadows expect those of a non-member.

    phi'(x) = mu(x) + (phi(x) - mu(x) - offset(mu(x))) / ratio(mu(x)), for each target and query,
    with mu(x) from `Expected` and both functions from `measure`: linear between their knots and
    constant outside. A population's example is moved in the same way.

    Args:
        target: phi of audited models, or of one, on the audited examples, in nats.
        population: phi of the same models on the population.
        expected: from the shadows, as `expect` gives it.

    Returns:
        phi' of the audited examples and of the population, float64. NaN for a target and query with
        fewer than `FEWEST` population examples on which it and all shadows are finite.
    """
    own = target.reshape(-1, *target.shape[-2:]).double()
    aside = population.reshape(-1, *population.shape[-2:]).double()
    moved = torch.full_like(own, torch.nan), torch.full_like(aside, torch.nan)
    for query, (outside, mean, variance) in enumerate(zip(*expected[:3], strict=True)):
        for model, phi in enumerate(aside[:, query]):
            usable = phi.isfinite() & mean.isfinite() & variance.isfinite()
            if usable.sum() < FEWEST:
                continue
            move = measure(phi[usable], mean[usable], variance[usable], expected.shadows)
            moved[0][model, query] = undo(own[model, query], outside, move)
            moved[1][model, query] = undo(phi, mean, move)
    return moved[0].reshape(target.shape), moved[1].reshape(population.shape)


def measure(
    phi: Float[Tensor, " population"],
    mean: Float[Tensor, " population"],
    variance: Float[Tensor, " population"],
    shadows: int,
) -> Moved:
    """Measure a target's offset and ratio of spreads, in bins of equally many examples.

    Bins are by predicted difficulty, `mean`: one per 200 examples, 1 to 20 in all. A line through
    phi - mean in each bin gives the offset at its centre, and at the outer ends of the first and
    last bin; and the target's variance about it, with two degrees of freedom less. If s is the
    spread of one model at full precision and r s the target's, that variance is
    r^2 s^2 + s^2 / shadows, since `mean` itself has an error of s / sqrt(shadows); s^2 is the mean
    of `variance`. An r below 1 / sqrt(shadows) cannot be told from that error, and is set to it.

    Args:
        phi: the target's, in nats; 100 examples or more.
        mean: the shadows' mean.
        variance: the shadows' unbiased variance.
        shadows: how many they are.
    """
    order = mean.argsort(stable=True)
    bins = torch.tensor_split(order, max(1, min(MOST_BINS, len(order) // PER_BIN)))
    centres, middles, ratios, ends = [], [], [], []
    for examples in bins:
        x, y = mean[examples], (phi - mean)[examples]
        across, centre, middle = x - x.mean(), x.mean(), y.mean()
        slope = (across * y).sum() / across.square().sum().clamp_min(1e-30)
        left = (y - middle - slope * across).square().sum() / (len(x) - 2)
        s2 = variance[examples].mean()
        squared = (left / s2 - 1 / shadows).clamp_min(1 / shadows)
        ratios.append(squared.sqrt() if s2 > 0 else torch.ones_like(s2))
        centres.append(centre)
        middles.append(middle)
        ends.append((x[[0, -1]], middle + slope * across[[0, -1]]))
    (first, at_first), (last, at_last) = ends[0], ends[-1]
    knots = torch.stack([first[0], *centres, last[-1]])
    offsets = torch.stack([at_first[0], *middles, at_last[-1]])
    return Moved(torch.stack([knots, offsets]), torch.stack([knots[1:-1], torch.stack(ratios)]))


def undo(
    phi: Float[Tensor, " examples"], expected: Float[Tensor, " examples"], moved: Moved
) -> Float[Tensor, " examples"]:
    """Take offset and ratio of spreads back, at the difficulty that the shadows expect."""
    offset, ratio = (_interpolate(expected, *pairs) for pairs in moved)
    return expected + (phi - expected - offset) / ratio


def _interpolate(
    x: Float[Tensor, " examples"], knots: Float[Tensor, " knots"], values: Float[Tensor, " knots"]
) -> Float[Tensor, " examples"]:
    """Linear between knots, constant outside; between equal knots, the value at the right one."""
    right = torch.searchsorted(knots.contiguous(), x.contiguous()).clamp(0, len(knots) - 1)
    left = (right - 1).clamp_min(0)
    width = knots[right] - knots[left]
    share = ((x - knots[left]) / width).where(width > 0, 1.0).clamp(0, 1)
    return values[left] + share * (values[right] - values[left])
