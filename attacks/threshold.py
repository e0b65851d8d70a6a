"""The attack without shadows: one threshold for everybody."""

from jaxtyping import Bool, Float
from torch import Tensor


def global_threshold(
    target: Float[Tensor, "*targets queries examples"],
    shadows: Float[Tensor, "models queries examples"],
    included: Bool[Tensor, "models examples"],
) -> Float[Tensor, "*targets examples"]:
    """Score membership by the target's confidence alone, averaged over queries.

    Args:
        target: phi of the audited model, in nats.
        shadows: not used; every attack has the same signature.
        included: not used.

    Returns:
        Mean phi in nats, float64; higher means likelier a member.

    Source: Yeom et al. 2018, arXiv:1709.01604 (loss threshold; phi is decreasing in the loss).
    """
    return target.double().mean(-2)
