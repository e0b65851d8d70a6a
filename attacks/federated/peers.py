"""Attacks that compare a client with the other clients of its round, and need no shadows.

The other clients see the same global model and, but for their own members, the same examples as
non-members: what they share, an example's difficulty above all, cancels. An example of a peer is a
non-member of all clients but one.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.federated.view import mean_over_rounds, took_part

_FLOOR = 1e-8  # added to the peers' variance, as in FedMIA


class _Others(NamedTuple):
    """Mean and population variance over the other clients that took part in the round."""

    mean: Float[Tensor, "rounds clients examples"]
    variance: Float[Tensor, "rounds clients examples"]


def contrast(
    signal: Float[Tensor, "rounds clients examples"],
) -> Float[Tensor, "rounds clients examples"]:
    """Subtract the mean over the other clients that took part in the round.

    Args:
        signal: of one federation; NaN where a client did not take part.

    Raises:
        ValueError: a round has a single client.
    """
    return signal - _others(signal).mean


def fedmia(
    signal: Float[Tensor, "rounds clients examples"],
) -> Float[Tensor, "clients examples"]:
    """Score membership by the normal CDF at which a client stands among the others.

    Records stay aligned: example j is the same in every round and every client. The authors'
    published code draws and permutes non-members anew in every round, by which series of random
    numbers reach a TPR of 10 to 29% at 0.1% FPR.

    Args:
        signal: of one federation; NaN where a client did not take part. FedMIA-I takes minus the
            loss, FedMIA-II the cosine with the update.

    Returns:
        Mean over a client's rounds, 0 to 1; NaN for a client that never took part.

    Raises:
        ValueError: a round has a single client.

    Source: Zhu et al. 2025, "FedMIA", arXiv:2402.06289, equations 4 to 12, without the filter at 3
        standard deviations, which cannot reject any of 9 peers.
    """
    mean, variance = _others(signal)
    return mean_over_rounds(torch.special.ndtr((signal - mean) / (variance + _FLOOR).sqrt()))


def standardise(
    signal: Float[Tensor, "rounds clients examples"],
) -> Float[Tensor, "rounds clients examples"]:
    """Contrast with the peers, over its own root mean square in the federation's round.

    Noise of relative size r in the updates, as quantization adds, shrinks cosines by
    1/sqrt(1 + r^2). An attacker whose shadows have no such noise measures the size on the target's
    own clients, and needs no known member for it.
    """
    difference = contrast(signal)
    size = difference.square().nanmean((1, 2), keepdim=True).sqrt()
    return difference / size.where(size > 0, torch.inf)


def _others(signal: Float[Tensor, "rounds clients examples"]) -> _Others:
    present = took_part(signal)
    _check(present)
    centre = signal.nanmean(1, keepdim=True)  # variances of large numbers would lose digits
    around = (signal - centre).nan_to_num()
    others = present.sum(1)[:, None, None] - 1
    mean = (around.sum(1, keepdim=True) - around) / others
    square = around.square()
    variance = (square.sum(1, keepdim=True) - square) / others - mean.square()
    return _Others(mean + centre, variance.clamp_min(0))


def _check(present: Bool[Tensor, "rounds clients"]) -> None:
    counts = present.sum(1)
    if (fewest := int(counts.min())) < 2:
        raise ValueError(
            "A client is compared with the others of its round, got a round with "
            f"{fewest} client{'' if fewest == 1 else 's'}. Train with more clients, or raise "
            "`--federated.participation`."
        )
