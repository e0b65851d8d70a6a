"""Attack-R and Attack-P: where the target's loss lies among the losses of non-members.

Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models",
arXiv:2111.09679: reference models (R) give one threshold per example, a population (P) one for all.
The loss is -log p_y = softplus(-phi), in nats.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from attacks.slices import Sliced, slices_of, sort_models


def attack_r(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how low the target's loss is among shadows without the example.

    The k-th smallest of n losses is the quantile k / (n + 1), tied losses share the middle of their
    quantiles, and a loss of 0 is the quantile 0; in between it is linear. At d nats above the
    largest loss it is (n + d / (1 + d)) / (n + 1), so that it grows with the loss everywhere.

    Args:
        target: phi of the audited model, or of several that share their shadows, in nats.
        shadows: phi of each shadow model; only those without the example count.
        included: whether that shadow model trained on that example.

    Returns:
        Minus the mean quantile over queries, from -1 to 0, float64.

    Raises:
        ValueError: every shadow trained on an example.
    """
    if included.all(0).any():
        raise ValueError(
            "Attack-R needs a shadow model that did not train on an example, but all "
            f"{len(included)} trained on one. Train more shadows, or each on fewer examples."
        )
    quantiles = torch.empty(target.shape, dtype=torch.float64)
    for part in slices_of(shadows):
        tensors = target[..., part], shadows[..., part], ~included[:, part]
        quantiles[..., part] = _quantile(*tensors)
    return -quantiles.mean(-2)


def attack_p(
    target: Float[Tensor, "*targets queries examples"],
    population: Float[Tensor, "*targets queries population"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by how low the target's loss is among its losses on a population.

    With one query it ranks as `global_threshold` does, on the scale of a false positive rate.

    Args:
        target: phi of the audited model, or of several, in nats.
        population: phi of the same models on examples that they did not train on.

    Returns:
        Minus the mean over queries of the share of population losses below the example's, where a
        tie counts half, float64. Of two examples with the same share, the one with the larger mean
        phi scores higher, by less than half a population example would add. NaN if a phi of that
        target's population is NaN.

    Raises:
        ValueError: the population is empty.
    """
    queries, size = population.shape[-2:]
    if not size:
        raise ValueError("Attack-P ranks in a population, got 0 examples. Hold some out for it.")
    # by phi, which falls as the loss grows and separates losses that round to the same number
    phi, ordered = target.double().contiguous(), population.double().sort(-1).values.contiguous()
    below, at_most = (torch.searchsorted(ordered, phi, right=right) for right in (False, True))
    # shares are multiples of 1 / (2 queries x size), so adding up to 0.4 of that reorders none
    halves = (below + at_most).sum(-2) + phi.mean(-2).atan() / 4
    scores = halves / (2 * queries * size) - 1
    # a NaN sorts last, where it would look like a population example of loss 0
    return scores.masked_fill(ordered.isnan().any(-1).any(-1, keepdim=True), torch.nan)


def _quantile(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Tensor, "models queries examples"],
    outside: Bool[Tensor, "models examples"],
) -> Float[Tensor, "*targets queries examples"]:
    """Place the target's loss among those of the shadows marked by `outside`, from 0 to 1."""
    losses: Tensor = -logsigmoid(shadows.double())  # `softplus` loses 2e-9 from phi = -20 down
    losses = sort_models(losses.where(outside[:, None], torch.inf)).movedim(0, -1).contiguous()
    loss: Tensor = -logsigmoid(target.double())
    x = loss.reshape(-1, *loss.shape[-2:]).movedim(0, -1).contiguous()  # queries examples targets
    below, at_most = (torch.searchsorted(losses, x, right=right) for right in (False, True))
    bounds = pad(pad(losses, (1, 0)), (0, 1), value=torch.inf)
    low, high = bounds.gather(-1, below), bounds.gather(-1, below + 1)
    step = torch.where(high.isinf(), (x - low) / (1 + x - low), (x - low) / (high - low))
    position = torch.where(at_most > below, (below + 1 + at_most) / 2, below + step)
    quantile = position / (outside.sum(0)[:, None] + 1)
    # a diverged shadow's NaN sorts last, where the search would ignore it
    quantile = quantile.masked_fill(losses.isnan().any(-1, keepdim=True), torch.nan)
    return quantile.movedim(-1, 0).reshape(loss.shape)
