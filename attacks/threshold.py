"""Attacks with one threshold for all examples, without shadows."""

from jaxtyping import Bool, Float
from torch import Tensor


def global_threshold(
    target: Float[Tensor, "*targets queries examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by the target's confidence alone, as a mean over queries.

    Args:
        target: phi of the audited model, in nats.

    Returns:
        Mean phi in nats, float64; higher means likelier a member.

    Source: Yeom et al. 2018, arXiv:1709.01604 (loss threshold; phi is decreasing in the loss).
    """
    return target.double().mean(-2)


def gap(
    correct: Bool[Tensor, "*targets queries examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by whether the target is right; the gap is that of train and test accuracy.

    With one query, balanced accuracy is 1/2 + (accuracy on members - accuracy on non-members) / 2.

    Args:
        correct: whether the audited model's top class is the true one.

    Returns:
        Share of queries answered correctly, float64; higher means likelier a member.

    Source: Yeom et al. 2018, arXiv:1709.01604 (Adversary 1, for the 0-1 loss).
    """
    return correct.double().mean(-2)
