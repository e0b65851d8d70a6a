"""What a pruned network's architecture tells of its training data, without any of its weights."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.game import Game, by_shadows
from attacks.metrics.intervals import Estimate, Summary, summarise, two_way
from attacks.metrics.measures import area

_CHUNK = 1 << 24  # numbers at once, 0.1 GB in float64


class ArchitectureLeak(NamedTuple):
    """What an attacker finds who knows which channels a network kept, and nothing else of it.

    Attributes:
        summary: mean over targets of the attack by kept channels.
        by_class: AUC where each example has the mean score of its class: what kept channels tell of
            how many examples of each class a network trained on; None without classes.
        varying: channels that some shadows kept and others not.
        channels: channels of the dense network that pruning may remove.
    """

    summary: Summary
    by_class: Estimate | None
    varying: int
    channels: int


def score_kept(
    targets: Bool[Tensor, "targets channels"],
    shadows: Bool[Tensor, "models channels"],
    included: Bool[Tensor, "models examples"],
) -> Float[Tensor, "targets examples"]:
    """Score membership by the channels that pruning kept.

    The log-likelihood ratio of each channel's being kept among the shadows that trained on an
    example and among the others, added up as if channels were independent (naive Bayes), with one
    imaginary shadow of either outcome on either side (Laplace's rule of succession). With enough
    shadows no function of single channels tells more.

    Args:
        targets: which channels each audited network kept.
        shadows: which channels each shadow kept.
        included: which shadow trained on which example.

    Returns:
        Log-likelihood ratios in nats; higher means likelier a member.

    Raises:
        ValueError: there are no shadows.
    """
    if not len(shadows):
        raise ValueError("Kept channels are compared with those of shadows, got no shadow.")
    kept, rows = shadows.double(), targets.double()
    scores = torch.empty(len(targets), included.shape[1], dtype=torch.float64)
    together = max(1, _CHUNK // max(1, kept.shape[1]))
    for part in torch.split(torch.arange(included.shape[1]), together):
        inside = included[:, part].T.double()
        ratios = []
        for side in (inside, 1 - inside):
            chance = (side @ kept + 1) / (side.sum(1, keepdim=True) + 2)
            ratios.append(torch.stack([chance.log(), (1 - chance).log()]))
        kept_by, removed_by = ratios[0] - ratios[1]  # examples channels
        scores[:, part] = rows @ kept_by.T + (1 - rows) @ removed_by.T
    return scores


def find_architecture_leak(game: Game) -> ArchitectureLeak | None:
    """Attack every audited model by its kept channels; None for models that were not pruned."""
    if game.kept_channels is None:
        return None
    masks = game.kept_channels
    scores = torch.empty(game.audited.shape, dtype=torch.float64)
    for group, positions in by_shadows(game.cases).items():
        rows, audited = list(group), [game.cases[position].target for position in positions]
        scores[positions] = score_kept(masks[audited], masks[rows], game.members[rows])
    shadows = masks[sorted({shadow for case in game.cases for shadow in case.shadows})]
    labels = next(iter(game.signals.values())).labels
    by_class = None
    if labels is not None:
        classes = one_hot(labels[0].long()).double()
        means = scores @ classes / classes.sum(0).clamp(min=1)
        by_class = two_way(area(means[:, labels[0].long()], game.audited))
    varying = int((shadows.any(0) & ~shadows.all(0)).sum())
    return ArchitectureLeak(summarise(scores, game.audited), by_class, varying, masks.shape[1])
