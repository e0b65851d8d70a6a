"""Which models failed, so that none of them is averaged in."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.slices import Sliced


def find_failures(
    phi: Mapping[str, Float[Sliced, "models queries examples"]],
    correct: Sliced,
    members: Bool[Tensor, "models examples"],
) -> dict[int, str]:
    """Name the models that diverged, and those that a quantization broke.

    Args:
        phi: signals by variant, in nats; `full` among them.
        correct: whether each model classified each view `[models, queries, examples]` correctly at
            full precision.
        members: who trained on what.

    Returns:
        Model index -> reason, to be shown; empty if all is well.
    """
    return find_broken(phi) | failures(phi["full"], correct, members)


def find_broken(phi: Mapping[str, Float[Sliced, "models queries examples"]]) -> dict[int, str]:
    """Name the models of which some signal is not finite: model index -> the first such variant."""
    found: dict[int, str] = {}
    for variant, signals in phi.items():
        for model, broken in enumerate(_broken(signals)):
            if broken:
                found.setdefault(model, f"signals of {variant} are not finite")
    return found


def failures(
    phi: Float[Sliced, "models queries examples"],
    correct: Sliced,
    members: Bool[Tensor, "models examples"],
) -> dict[int, str]:
    """Name the models whose signals are not finite or whose training accuracy is far below.

    Far below is under the median of the other finite models by more than 0.1 and by more than 6
    robust standard deviations (1.4826 median absolute deviations each) of theirs.

    Args:
        phi: signals of one variant, in nats.
        correct: whether each model classified each view `[models, queries, examples]` correctly;
            query 0 is the identity.
        members: who trained on what.

    Returns:
        Model index -> reason, to be shown; empty if all is well.
    """
    models, queries, examples = phi.shape
    broken = torch.tensor(_broken(phi))
    right = torch.cat([correct[[model]][..., :][:, 0] for model in range(models)])
    accuracy = (right & members).sum(1) / members.sum(1).double()
    found = {}
    for model in range(models):
        if broken[model]:
            found[model] = f"{broken[model]} of {queries * examples} signals are not finite"
            continue
        peers = broken == 0
        peers[model] = False
        if not peers.any():
            continue
        # quantile, because `torch.median` of an even number is the lower middle value
        median = accuracy[peers].quantile(0.5)
        mad = (accuracy[peers] - median).abs().quantile(0.5)
        if accuracy[model] < median - max(0.1, 6 * 1.4826 * mad.item()):
            found[model] = (
                f"training accuracy {accuracy[model]:.3f}, its peers' median {median:.3f}"
            )
    return found


def _broken(phi: Float[Sliced, "models queries examples"]) -> list[int]:
    """How many signals of each model are not finite, a model at a time."""
    return [int((~phi[[model]][..., :].isfinite()).sum()) for model in range(phi.shape[0])]
