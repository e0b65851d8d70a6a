"""Models that diverged or that quantization broke, found before they are averaged in."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.game import FULL
from attacks.slices import Sliced

# Fewest peers that training accuracy is judged by. In simulated healthy fleets (normal accuracies,
# standard deviations from 0.02 to 0.15) 1, 2, 4, 6, 8 and 12 peers call at most 32%, 6%, 3%, 1%,
# 0.5% and 0.1% of the models failed: the spread of few peers may happen to be small.
FEWEST_PEERS = 8


def find_failures(
    phi: Mapping[str, Float[Sliced, "models queries examples"]],
    correct: Sliced,
    members: Bool[Tensor, "models examples"],
) -> dict[int, str]:
    """Name the models that diverged in training and those that quantization broke.

    Args:
        phi: signals by variant, in nats; `full` among them.
        correct: `[models, queries, examples]`, whether each full-precision model classified each
            view correctly.
        members: which model trained on which example.

    Returns:
        Model index -> reason, to be shown; empty if all models are sound.
    """
    return find_broken(phi) | failures(phi[FULL], correct, members)


def find_broken(phi: Mapping[str, Float[Sliced, "models queries examples"]]) -> dict[int, str]:
    """Name the models with non-finite signals: model index -> reason, naming the first variant."""
    reasons: dict[int, str] = {}
    for variant, signals in phi.items():
        for model, count in enumerate(_count_non_finite(signals)):
            if count:
                reasons.setdefault(model, f"signals of {variant} are not finite")
    return reasons


def failures(
    phi: Float[Sliced, "models queries examples"],
    correct: Sliced,
    members: Bool[Tensor, "models examples"],
) -> dict[int, str]:
    """Name the models whose signals are not finite or whose training accuracy is far too low.

    Far too low is below the median of the other finite models by more than 0.1 and by more than 6
    of their robust standard deviations (1.4826 times the median absolute deviation). Fewer than
    `FEWEST_PEERS` other models prove nothing: see `unjudged`.

    Args:
        phi: signals of one variant, in nats.
        correct: `[models, queries, examples]`, whether each model classified each view correctly;
            query 0 is the identity.
        members: which model trained on which example.

    Returns:
        Model index -> reason, to be shown; empty if all models are sound.
    """
    models, queries, examples = phi.shape
    non_finite = torch.tensor(_count_non_finite(phi))
    right = torch.cat([correct[[model]][..., :][:, 0] for model in range(models)])
    accuracy = (right & members).sum(1) / members.sum(1).double()
    reasons = {}
    for model in range(models):
        if non_finite[model]:
            reasons[model] = f"{non_finite[model]} of {queries * examples} signals are not finite"
            continue
        peers = non_finite == 0
        peers[model] = False
        if peers.sum() < FEWEST_PEERS:
            continue
        # quantile, because `torch.median` of an even number is the lower middle value
        median = accuracy[peers].quantile(0.5)
        mad = (accuracy[peers] - median).abs().quantile(0.5)
        if accuracy[model] < median - max(0.1, 6 * 1.4826 * mad.item()):
            reasons[model] = (
                f"training accuracy {accuracy[model]:.3f}, its peers' median {median:.3f}"
            )
    return reasons


def unjudged(phi: Float[Sliced, "models queries examples"]) -> list[str]:
    """Sentence on training accuracies that `failures` does not judge, if it does not."""
    finite = 0
    for model in range(phi.shape[0]):
        finite += bool(phi[[model]][..., :].isfinite().all())
        if finite > FEWEST_PEERS:
            return []
    return [
        "Training accuracy was not judged, so a model that diverged with finite signals is not "
        f"noticed: that takes {FEWEST_PEERS} other models to compare with, got "
        f"{max(finite - 1, 0)}."
    ]


def _count_non_finite(phi: Float[Sliced, "models queries examples"]) -> list[int]:
    """Count the non-finite signals of each model, reading one model at a time."""
    return [int((~phi[[model]][..., :].isfinite()).sum()) for model in range(phi.shape[0])]
