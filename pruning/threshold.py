"""Which channels stay: one threshold for the scores of all groups, at a wanted share of MACs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pruning.cut import Shapes, kept_shapes, shapes_of
from pruning.groups import Group, Kept, find_groups
from pruning.macs import count_places, macs

MOST = 0.75  # of a group's channels that may be removed; OCSPruner's L


class Plan(NamedTuple):
    """What can be removed from a network, and what it saves.

    Attributes:
        groups: groups of channels.
        left: layers whose outputs stay as they are.
        shapes: shapes of the dense network's tensors.
        places: how often each weight of a layer is used per image.
    """

    groups: list[Group]
    left: list[str]
    shapes: Shapes
    places: dict[str, int]

    @property
    def everything(self) -> Kept:
        """All channels of all groups."""
        return {group.name: list(range(group.size)) for group in self.groups}

    def share(self, kept: Kept) -> float:
        """Share of the multiply-accumulates that a cut removes."""
        after = macs(kept_shapes(self.groups, kept, self.shapes), self.places)
        return 1 - after / macs(self.shapes, self.places)

    @property
    def most(self) -> float:
        """Largest share that a cut may remove."""
        return self.share(
            {group.name: list(range(group.size - removable(group.size))) for group in self.groups}
        )


def make_plan(network: nn.Module, images: Float[Tensor, "batch ..."]) -> Plan:
    """Find what can be removed from a dense network; arguments as in `find_groups`."""
    groups, left = find_groups(network, images)
    return Plan(groups, left, shapes_of(network), count_places(network, images))


def removable(size: int) -> int:
    """Number of channels that a group of this size may lose; at least one stays."""
    return int(MOST * size)


def choose(scores: Mapping[str, Float[Tensor, " channels"]], plan: Plan, remove: float) -> Kept:
    """Keep the channels above one threshold, the highest one that leaves no more than is wanted.

    Args:
        scores: scores of the channels, by group.
        plan: the groups, and what their channels cost.
        remove: share of the multiply-accumulates to remove.

    Returns:
        The kept channels. They remove at least this share; with one channel more they would not.

    Raises:
        ValueError: no cut removes so much.
    """
    if remove > plan.most:
        raise ValueError(
            f"`remove` must be at most {plan.most:.3f} for this network, of whose groups "
            f"{MOST:.0%} of the channels can go, got {remove:g}."
        )
    ranked = _rank(scores, plan.groups)
    fewest, most = 0, len(ranked)  # bisection: the first removes too little, the last enough
    while most - fewest > 1:
        middle = (fewest + most) // 2
        enough = plan.share(_without(plan, ranked[:middle])) >= remove
        fewest, most = (fewest, middle) if enough else (middle, most)
    return _without(plan, ranked[:most])


def _rank(scores: Mapping[str, Tensor], groups: Sequence[Group]) -> list[tuple[str, int]]:
    """Channels that may be removed, the lowest score first; of equal ones the first in order."""
    channels: list[tuple[float, str, int]] = []
    for group in groups:
        values = scores[group.name].double().cpu()
        lowest = torch.sort(values, stable=True).indices[: removable(group.size)].tolist()
        channels += [(values[channel].item(), group.name, channel) for channel in sorted(lowest)]
    channels.sort(key=lambda entry: entry[0])
    return [(name, channel) for _, name, channel in channels]


def _without(plan: Plan, removed: Sequence[tuple[str, int]]) -> Kept:
    gone = set(removed)
    return {
        group.name: [c for c in range(group.size) if (group.name, c) not in gone]
        for group in plan.groups
    }
