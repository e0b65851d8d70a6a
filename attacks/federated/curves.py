"""Where members and non-members stand in each round, among clients that hold neither."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from scipy.stats import t as student
from torch import Tensor

from attacks.cases import Case, by_shadows
from attacks.federated.reference import Reference
from attacks.federated.view import View
from attacks.metrics.intervals import CONFIDENCE, Estimate
from attacks.rounds import NOBODY, RoundSignal


class Curves(NamedTuple):
    """Mean z of one signal in each recorded round, over federations.

    Attributes:
        members: of a client's own examples.
        peers: of the examples of other clients; empty where a single series is seen.
        non_members: of examples that nobody holds.
    """

    members: list[Estimate]
    peers: list[Estimate]
    non_members: list[Estimate]


def find_curves(view: View, shadows: View, cases: Sequence[Case], name: RoundSignal) -> Curves:
    """Mean z of members, of peers' members and of non-members in each round.

    Each federation counts once, and the interval is Student's t over federations; of a single one
    there is none.

    Raises:
        ValueError: too few shadows, as `Reference`.
    """
    means: list[list[Tensor]] = [[], [], []]
    for group, positions in by_shadows(cases).items():
        rows = list(group)
        reference = Reference(shadows.signals[name][rows], shadows.holder[rows])
        for position in positions:
            target = cases[position].target
            z = reference.z(view.signals[name][target].double())
            for side, found in zip(means, _means(z, view.holder[target]), strict=True):
                side.append(found)
    members, peers, non_members = (_over_federations(torch.stack(side)) for side in means)
    several = view.signals[name].shape[2] > 1
    return Curves(members, peers if several else [], non_members)


def _means(
    z: Float[Tensor, "rounds clients examples"], holder: Int64[Tensor, " examples"]
) -> list[Float[Tensor, " rounds"]]:
    """Mean over a client's own examples, those of its peers, and those that nobody holds."""
    clients = torch.arange(z.shape[1])[:, None]
    own, nobody = holder == clients, (holder == NOBODY).expand(len(clients), -1)
    return [z[:, side].nanmean(1) for side in (own, ~own & ~nobody, nobody)]


def _over_federations(values: Float[Tensor, "federations rounds"]) -> list[Estimate]:
    means, count = values.mean(0), len(values)
    margin = torch.zeros_like(means)
    if count > 1:
        quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
        margin = quantile * values.std(0) / count**0.5
    ends = zip(means.tolist(), (means - margin).tolist(), (means + margin).tolist(), strict=True)
    return [Estimate(*three) for three in ends]
