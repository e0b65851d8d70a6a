"""Hidden units of which few stay active per example: the GABA switch, and Top-K.

Source: Bricken et al. 2023, arXiv:2303.11934 (SDMLP), written from its formulas. A neuron that has
been active often is inhibited; one that has not is excited, so that none dies before it has learnt.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def inhibition(active: Float[Tensor, "batch neurons"], k: int) -> Float[Tensor, "batch 1"]:
    """The k+1-th largest activation of each example, through which no gradient flows.

    Raises:
        ValueError: the layer has no k+1-th neuron.
    """
    neurons = active.shape[1]
    if not 1 <= k < neurons:
        raise ValueError(
            f"`k` must be 1 to {neurons - 1} in a layer of {neurons} neurons, because the k+1-th "
            f"largest activation inhibits all of them, got {k}. Lower it, or widen the layer."
        )
    return active.detach().topk(k + 1, 1).values[:, -1:]


def switch_gains(
    counts: Int[Tensor, " neurons"], switch: float | Int[Tensor, ""]
) -> Float[Tensor, " neurons"]:
    """Gain of the inhibition of each neuron: -1 at first, 0 on half of the way, 1 from then on.

    Args:
        counts: how many training examples each neuron has been active on.
        switch: the count at which a neuron's gain reaches 1.
    """
    return (2 * counts / switch - 1).clamp(-1, 1)


def switched(
    active: Float[Tensor, "batch neurons"], k: int, gains: Float[Tensor, " neurons"]
) -> Float[Tensor, "batch neurons"]:
    """Activations less each neuron's share of the inhibition, and zero where nothing is left.

    At a gain of 1 everywhere k neurons survive per example, unless some are equal or fewer than k
    are positive; at -1 all of them are active.

    Args:
        active: activations after ReLU.
        k: number of neurons that survive.
        gains: gain of each neuron, of `switch_gains`.

    Raises:
        ValueError: the layer has no k+1-th neuron.
    """
    return (active - gains.to(active.dtype) * inhibition(active, k)).relu()


def masked(active: Float[Tensor, "batch neurons"], k: int) -> Float[Tensor, "batch neurons"]:
    """The k largest activations of each example as they are, and zero elsewhere.

    Activations equal to the k-th largest all stay, so that no order of equal ones matters.

    Raises:
        ValueError: the layer has fewer than k neurons.
    """
    neurons = active.shape[1]
    if not 1 <= k <= neurons:
        raise ValueError(
            f"`k` must be 1 to {neurons}, the neurons of the layer, got {k}. Lower it, or widen the"
            " layer."
        )
    least = active.detach().topk(k, 1).values[:, -1:]
    return torch.where(active >= least, active, 0)


def decayed_k(epoch: int, epochs: int, k: int, neurons: int) -> int:
    """The k of an epoch, counted from 0: all neurons at first, k after some epochs, and a line."""
    if epochs < 1:
        return k
    return int(min(neurons, max(k, neurons - (neurons - k) * epoch / epochs)))


def count_active(hidden: Float[Tensor, "batch neurons"]) -> Int[Tensor, " neurons"]:
    """How many examples of a batch each neuron is active on."""
    return (hidden.detach() > 0).sum(0)
