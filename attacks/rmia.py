"""RMIA and BASE: how much likelier the label is under the target than under an average model.

Sources: Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks",
arXiv:2312.03262; Lassila et al. 2025, "Practical Bayes-Optimal Membership Inference Attacks",
arXiv:2505.24089, which shows that BASE is RMIA without a population.
Notation: P(x) = sigmoid(phi) is a model's probability of the true class of x, P_t the target's;
Pbar(x) is an average over models, and r(x) = P_t(x) / Pbar(x).
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from attacks.slices import Sliced, slices_of


class RmiaOptions(NamedTuple):
    """Choices of RMIA that change its scores.

    Attributes:
        population: what an example is compared with: `test` is examples that no model trained on,
            `pool` the other audited examples, as in the authors' code. With one query and gamma = 1
            both rank examples by r(x).
        a: of the offline average, from 0 to 1.
        tune: choose `a` on shadows that pose as targets, instead.
    """

    population: Literal["test", "pool"] = "test"
    a: float = 0.3
    tune: bool = False


DEFAULT = RmiaOptions()


def make_options(population: Literal["test", "pool"], a: float | Literal["tuned"]) -> RmiaOptions:
    """Check RMIA's choices; an `a` that is `tuned` is chosen later.

    Raises:
        ValueError: `a` is outside 0 to 1.
    """
    if a == "tuned":
        return RmiaOptions(population, tune=True)
    if not 0 <= a <= 1:
        raise ValueError(f"`--rmia.a` must be 0 to 1 or `tuned`, got {a}. The default is 0.3.")
    return RmiaOptions(population, a)


def log_ratio(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    online: bool,
    a: float = 0.3,
) -> Float[Tensor, "*targets queries examples"]:
    """Compare the target's probability of the true class with the shadows' average.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; the target is none of them.
        included: whether that shadow model trained on that example; False throughout for a
            population.
        online: if true, Pbar is (mean_in + mean_out) / 2, where each side counts half however many
            models it has, and on a population, which no model trained on, the mean of all models.
            Otherwise Pbar is ((1 + a) mean_out + 1 - a) / 2.
        a: offline, a mean_out + 1 - a stands in for mean_in; at 1, training changes nothing.

    Returns:
        log r of each query and example, float64 nats, with full relative precision for P near 0
        and near 1.

    Raises:
        ValueError: every shadow trained on an example; online, none did on one example while some
            did on another; `a` is outside 0 to 1.
    """
    if not 0 <= a <= 1:
        raise ValueError(f"`a` must be 0 to 1, or an average is no probability, got {a}.")
    most, fewest = int(included.sum(0).max()), int(included.sum(0).min())
    if most == len(included):
        raise ValueError(
            f"RMIA needs a shadow model that did not train on an example, but all {most} trained "
            "on one. Train more shadows, or each on fewer examples."
        )
    both = online and most > 0
    if both and fewest == 0:
        raise ValueError(
            "Online RMIA needs a shadow model that trained on each example, got 0 for one example "
            f"and {most} for another. Train more shadows, or use `online=False`."
        )
    share = 1.0 if online else (1 + a) / 2
    averages = torch.empty(shadows.shape[1:], dtype=torch.float64)
    for part in slices_of(shadows):
        weights = _weights(included[:, part], both)
        means = log_means(shadows[..., part].double(), weights)
        averages[:, part] = log_mixture(*means, share)
    return logsigmoid(target.double()) - averages


def rmia(
    ratios: Float[Tensor, "*targets queries examples"],
    population: Float[Tensor, "*targets queries population"],
    gamma: float = 1.0,
) -> Float[Tensor, "*targets examples"]:
    """Score membership by the share of population examples z for which r(x) / r(z) > gamma.

    Args:
        ratios: `log_ratio` of the audited examples, in nats.
        population: `log_ratio` of examples that neither target nor shadows trained on, in nats.
        gamma: factor by which r(x) must exceed r(z); above 1, more examples tie at share 0.

    Returns:
        Mean share over queries, float64 (the authors let queries vote, which makes more ties). Of
        two examples with the same share, the one with the larger mean log r scores higher, by less
        than one more population example would add. NaN if a population ratio of that target is NaN.

    Raises:
        ValueError: the population is empty, or `gamma` is not positive.
    """
    queries, size = population.shape[-2:]
    if not size:
        raise ValueError("RMIA compares with a population, got 0 examples. Hold some out for it.")
    if not gamma > 0:
        raise ValueError(f"`gamma` must be positive, got {gamma}. The usual value is 1.")
    ordered = population.double().sort(-1).values.contiguous()
    exceeded = torch.searchsorted(ordered, (ratios.double() - math.log(gamma)).contiguous())
    # shares are multiples of 1 / (queries x size), so adding up to 0.4 of that reorders none
    ties = ratios.double().mean(-2).atan() / 4
    scores = (exceeded.sum(-2) + ties) / (queries * size)
    # a NaN sorts last, where it would look like a population example that nobody exceeds
    return scores.masked_fill(ordered.isnan().any(-1).any(-1, keepdim=True), torch.nan)


def rmia_in_pool(
    ratios: Float[Tensor, "*targets queries examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by the share of the other examples z for which r(x) > r(z).

    Args:
        ratios: `log_ratio` of the audited examples, in nats.

    Returns:
        As `rmia`. An example never exceeds itself, so that its population is all others.
    """
    examples = ratios.shape[-1]
    return rmia(ratios, ratios) * (examples / max(1, examples - 1))


def base(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by log P_t(x) - log mean_m P_m(x), where m runs over all shadows.

    If as many shadows trained on an example as did not, this is the online `log_ratio`.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; about half should have trained on each example.

    Returns:
        Mean over queries, float64 nats.
    """
    nobody = torch.zeros(shadows.shape[0], shadows.shape[-1], dtype=torch.bool)
    return log_ratio(target, shadows, nobody, online=True).mean(-2)


def _weights(
    included: Bool[Tensor, "models examples"], both: bool
) -> Float[Tensor, "models examples"]:
    """Weigh each model in an example's average: each side half, or only models without it."""
    inside, outside = (side.double() / side.sum(0) for side in (included, ~included))
    return (inside + outside) / 2 if both else outside


def log_means(
    phi: Float[Tensor, "models queries examples"], weights: Float[Tensor, "models examples"]
) -> tuple[Float[Tensor, "queries examples"], Float[Tensor, "queries examples"]]:
    """Return log of the weighted mean P, and log of the mean of 1 - P."""
    logs = weights.log()[:, None]
    # `where` drops a diverged model whose weight is 0
    log_p, log_rest = (
        (logsigmoid(x) + logs).where(logs > -torch.inf, -torch.inf).logsumexp(0)
        for x in (phi, -phi)
    )
    return log_p, log_rest


def log_mixture(
    log_p: Float[Tensor, "queries examples"],
    log_rest: Float[Tensor, "queries examples"],
    share: float,
) -> Float[Tensor, "queries examples"]:
    """Return log(share mean P + 1 - share), exact where the mean is near 0 or near 1."""
    rest = torch.full_like(log_p, 1 - share).log()
    low, high = torch.logaddexp(log_p + math.log(share), rest), (-share * log_rest.exp()).log1p()
    return torch.where(log_p < log_rest, low, high)
