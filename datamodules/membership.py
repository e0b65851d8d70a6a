"""Membership: which model trains on which example of the pool."""

import torch
from jaxtyping import Bool
from torch import Tensor

from datamodules.seeds import derive_seed


def membership(
    seed: int, shadows: int, targets: int, examples: int
) -> Bool[Tensor, "models examples"]:
    """Draw the training set of every model, shadows first, then targets.

    Shadows 2k and 2k + 1 train on a random half of the pool and on its complement, so that in every
    even number of shadows each example is in exactly half of them. Each target trains on a random
    half of its own. A row depends only on the seed and its own number, so that a fleet can grow and
    keep its models.

    Raises:
        ValueError: counts that make no fleet.
    """
    if shadows < 0 or shadows % 2:
        raise ValueError(
            f"`shadows` must be even, because they come in complementary pairs, got {shadows}. "
            f"Take {max(shadows + 1, 0)}."
        )
    if targets < 0:
        raise ValueError(f"`targets` must be 0 or more, got {targets}.")
    if shadows + targets == 0:
        raise ValueError("A fleet needs a model, got 0 shadows and 0 targets. Add one of them.")
    if examples < 2:
        raise ValueError(f"A pool needs 2 examples to be halved, got {examples}. Enlarge it.")
    halves = [_half(derive_seed(seed, "pair", k), examples) for k in range(shadows // 2)]
    pairs = [row for half in halves for row in (half, ~half)]
    return torch.stack(
        pairs + [_half(derive_seed(seed, "target", i), examples) for i in range(targets)]
    )


def _half(seed: int, examples: int) -> Bool[Tensor, " examples"]:
    generator = torch.Generator().manual_seed(seed)
    members = torch.zeros(examples, dtype=torch.bool)
    members[torch.randperm(examples, generator=generator)[: examples // 2]] = True
    return members
