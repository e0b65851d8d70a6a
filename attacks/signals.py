"""What an attacker sees of an example: confidence in its true label, from one model's logits."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus


class Signals(NamedTuple):
    """One entry per example and view, computed in float64 and stored in float32."""

    phi: Float[Tensor, "*batch examples"]
    hinge: Float[Tensor, "*batch examples"]
    loss: Float[Tensor, "*batch examples"]
    correct: Bool[Tensor, "*batch examples"]


def signals(
    logits: Float[Tensor, "*batch examples classes"], labels: Int64[Tensor, " examples"]
) -> Signals:
    """Reduce logits z to what the attacks use, for examples with true class y.

    Args:
        logits: any floating dtype; the arithmetic is float64.
        labels: true classes.

    Returns:
        phi: z_y - logsumexp of the other z, in nats: log(p_y / (1 - p_y)) without its overflow.
            The LiRA authors' log(p_y + 1e-45) - log(1 - p_y + 1e-45) agrees to 1e-6 nats while
            |phi| < 89, and saturates at 103.6.
        hinge: z_y - largest other z, in units of the logits.
        loss: cross-entropy -log p_y = softplus(-phi), in nats.
        correct: whether z_y is the single largest logit; a tie counts as wrong, so that the order
            of classes does not matter.

    Raises:
        ValueError: fewer than two classes, or a label outside them.

    Source: phi is the logit scaling of Carlini et al. 2022, arXiv:2112.03570.
    """
    own = _own_class(labels, logits.shape[-1])
    z = logits.double()
    true = z.gather(-1, labels[:, None].expand(*z.shape[:-1], 1)).squeeze(-1)
    others = z.masked_fill(own, -torch.inf)
    phi = true - others.logsumexp(-1)
    hinge = true - others.amax(-1)
    return Signals(phi.float(), hinge.float(), softplus(-phi).float(), hinge > 0)


def _own_class(
    labels: Int64[Tensor, " examples"], num_classes: int
) -> Bool[Tensor, "examples classes"]:
    """Mark the true class of each example."""
    if num_classes < 2:
        raise ValueError(
            f"Signals need 2 classes or more, got logits of {num_classes}. Give a binary "
            "classifier two outputs, for instance (0, z)."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"Labels must be 0 to {num_classes - 1} for logits of {num_classes} classes, got "
            f"{labels.min()} to {labels.max()}. Number the classes from 0."
        )
    return torch.arange(num_classes, device=labels.device) == labels[:, None]
