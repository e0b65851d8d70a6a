"""The group penalty that drives selected channels to zero, as a proximal step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pruning.groups import Group, Kept
from pruning.saliency import count, energy

TINY = 1e-12  # a channel of zeros stays so


@torch.no_grad()
def shrink(
    tensors: Mapping[str, Tensor], groups: Sequence[Group], kept: Kept, amount: float
) -> None:
    """Shrink the channels that are not kept, in place, by one proximal step of the group lasso.

    The penalty of a channel is strength * sqrt(n) * ||w|| for its n weights and scales w; its
    step after one of the loss is w <- max(0, 1 - amount * sqrt(n) / ||w||) w, where the amount is
    learning rate * strength. A weight between two such channels shrinks once, by the stronger of
    both; one that lies in the channel along two axes, as where a layer reads what it writes,
    counts twice in n and in ||w||. Biases do not shrink.

    Args:
        tensors: the network's parameters by their key.
        groups: groups of channels.
        kept: the channels that do not shrink.
        amount: learning rate times strength.

    Source: Yuan and Lin 2006, doi:10.1111/j.1467-9868.2005.00532.x, for the penalty. OCSPruner's
        own is computed without a gradient, so that only a multiplication after each step acts.
    """
    factors: dict[str, dict[int, Tensor]] = {}
    for group in groups:
        scored = [piece for piece in group.slices if piece.role != "other"]
        norms = torch.stack([energy(tensors[piece.key], piece) for piece in scored]).sum(0).sqrt()
        size = sum(count(tensors[piece.key], piece) for piece in scored)
        factor = (1 - amount * size**0.5 / norms.clamp(min=TINY)).clamp(min=0)
        factor[kept[group.name]] = 1
        for piece in scored:
            tensor, axes = tensors[piece.key], factors.setdefault(piece.key, {})
            if piece.axis not in axes:
                axes[piece.axis] = tensor.new_ones(tensor.shape[piece.axis])
            axes[piece.axis][piece.positions] = factor[:, None].to(tensor.dtype)
    for key, axes in factors.items():
        tensor, weakest = tensors[key], torch.ones((), device=tensors[key].device)
        for axis, along in axes.items():
            across = [-1 if axis == other else 1 for other in range(tensor.ndim)]
            weakest = torch.minimum(weakest, along.view(across))
        tensor.mul_(weakest.to(tensor.dtype))
