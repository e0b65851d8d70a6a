"""What a pruned network's architecture tells of its training data, without any of its weights."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.cases import by_shadows
from attacks.game import Game
from attacks.metrics.intervals import Estimate, Summary, summarise, two_way
from attacks.metrics.measures import area

RIDGE = 1.0  # added to the variance of each width, which is 1 after scaling


class ArchitectureLeak(NamedTuple):
    """What an attacker finds who knows the widths of a network, and nothing else of it.

    Attributes:
        summary: mean over targets of the attack by widths.
        by_class: AUC where each example has the mean score of its class: what widths tell of how
            many examples of each class a network trained on; None without classes.
        varying: groups of channels of which shadows kept different numbers.
        groups: groups of channels that pruning may remove.
    """

    summary: Summary
    by_class: Estimate | None
    varying: int
    groups: int


def score_widths(
    targets: Float[Tensor, "targets groups"],
    shadows: Float[Tensor, "models groups"],
    included: Bool[Tensor, "models examples"],
) -> Float[Tensor, "targets examples"]:
    """Score membership by how many channels of each group pruning kept.

    Which channels these are tells nothing: networks begin from different weights, and training
    treats all channels of a layer alike, so that channel 7 of one has nothing to do with channel 7
    of another. The widths are compared by Fisher's linear discriminant between the shadows that
    trained on an example and the others, with one covariance for all examples and a ridge.

    Args:
        targets: number of channels that each audited network kept, by group.
        shadows: the same of each shadow.
        included: which shadow trained on which example.

    Returns:
        Projections on the discriminant; higher means likelier a member. 0 where no width varies.

    Raises:
        ValueError: an example is in all shadows or in none.

    Source: Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x.
    """
    inside = included.double()
    counts = inside.sum(0)
    if not ((counts > 0) & (counts < len(included))).all():
        raise ValueError(
            "Widths are compared between shadows with and without an example, got an example that "
            "all shadows or none trained on. Train some with it and some without it."
        )
    mean, spread = shadows.double().mean(0), shadows.double().std(0, correction=0)
    scale = spread.where(spread > 0, torch.inf)
    known, own = (shadows.double() - mean) / scale, (targets.double() - mean) / scale
    covariance = known.T @ known / len(known) + RIDGE * torch.eye(known.shape[1]).double()
    shift = inside.T @ known / counts[:, None]
    shift -= (1 - inside).T @ known / (len(included) - counts)[:, None]
    weights: Tensor = torch.linalg.solve(covariance, shift.T)
    return own @ weights


def find_architecture_leak(game: Game) -> ArchitectureLeak | None:
    """Attack every audited model by its widths; None for models that were not pruned."""
    if game.widths is None:
        return None
    widths = game.widths
    scores = torch.empty(game.audited.shape, dtype=torch.float64)
    for group, positions in by_shadows(game.cases).items():
        rows, audited = list(group), [game.cases[position].target for position in positions]
        scores[positions] = score_widths(widths[audited], widths[rows], game.members[rows])
    shadows = widths[sorted({shadow for case in game.cases for shadow in case.shadows})]
    labels = next(iter(game.signals.values())).labels
    by_class = None
    if labels is not None:
        classes = one_hot(labels[0].long()).double()
        means = scores @ classes / classes.sum(0).clamp(min=1)
        by_class = two_way(area(means[:, labels[0].long()], game.audited))
    varying = int((shadows != shadows[0]).any(0).sum())
    return ArchitectureLeak(summarise(scores, game.audited), by_class, varying, widths.shape[1])
