"""How much a network would lose with a channel: the sizes of its weights, by OCSPruner's rule."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.groups import Group, Slice

Tensors = Mapping[str, Tensor]


def saliency(tensors: Tensors, groups: Sequence[Group]) -> dict[str, Float[Tensor, " channels"]]:
    """Score the channels of each group; a channel with small weights scores low.

    The mean over its slices of squared norms: that of weights over the root of their number, and
    the mean square of a normalisation's scales, of which a channel of several sub-groups has
    several; their sum would put such a channel above all others. Biases and running statistics do
    not count. The published code also weighs a group by the operations that a channel saves, but
    takes another group's number, because its two lists are one apart; this weight is left out.

    Args:
        tensors: the network's weights by their key.
        groups: its groups.

    Returns:
        Scores by the name of the group.

    Source: OCSPruner, arXiv:2501.13439, sections 3.2-3.4, as its code computes it.
    """
    scores = {}
    for group in groups:
        scored = [piece for piece in group.slices if piece.role != "other"]
        parts = [
            energy(tensors[piece.key], piece)
            / count(tensors[piece.key], piece) ** (0.5 if piece.role == "weight" else 1)
            for piece in scored
        ]
        scores[group.name] = torch.stack(parts).mean(0)
    return scores


@torch.no_grad()
def energy(tensor: Tensor, piece: Slice) -> Float[Tensor, " channels"]:
    """Sum of squares of each channel's part of a tensor, in float32."""
    others = [axis for axis in range(tensor.ndim) if axis != piece.axis]
    squares = tensor.float().square()
    along = squares.sum(others) if others else squares
    return along[piece.positions.to(tensor.device)].sum(1)


def count(tensor: Tensor, piece: Slice) -> int:
    """Number of entries of a tensor that belong to one channel."""
    return piece.positions.shape[1] * tensor.numel() // tensor.shape[piece.axis]
