"""What heads say of each example with it and without it, in closed form.

For ridge regression, leaving one example out and adding one are exact updates of rank one
(Sherman and Morrison 1950), so that one head gives both sides of every example.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MOST = 1 - 1e-6  # of a member's leverage, which rounding may lift to 1


class Heads(NamedTuple):
    """Ridge heads, or networks that end in one.

    Attributes:
        residuals: y - f(x) of every example under each head.
        leverage: phi^T R phi with the R of each head.
        members: the examples that each head was solved on.
    """

    residuals: Float[Tensor, "heads examples columns"]
    leverage: Float[Tensor, "heads examples"]
    members: Bool[Tensor, "heads examples"]


class Pair(NamedTuple):
    """Residuals y - f(x) of each example under heads that were solved with it, and without it."""

    inside: Float[Tensor, "heads examples columns"]
    outside: Float[Tensor, "heads examples columns"]


def pair(heads: Heads) -> Pair:
    """Each head's residual of every example with the example, and without it.

    With R = (Phi^T Phi + gamma I)^-1 of a head, the leverage of an example is phi^T R phi: h of a
    member, and q of a non-member, whose leverage as a member would be h = q / (1 + q). In both
    cases e_in = (1 - h) e_out.
    """
    known, given = heads.leverage.double().clamp_min(0), heads.residuals.double()
    h = torch.where(heads.members, known.clamp_max(_MOST), known / (1 + known))
    shrink, inside = (1 - h)[..., None], heads.members[..., None]
    return Pair(
        torch.where(inside, given, given * shrink), torch.where(inside, given / shrink, given)
    )
