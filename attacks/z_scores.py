"""Z-scores of members and non-members among an attacker's shadows: the picture of a mismatch.

LiRA asks how far a signal is from what shadows show without the example, and with it. If quantizing
the target moves its signals, full-precision shadows expect members and non-members where they are
not.
"""

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.cases import by_shadows
from attacks.game import Game, Knowledge, ModelSignals
from attacks.lira import fit_sides

BINS = 60
_BEYOND = 0.002  # share of each tail that the picture omits


class Density(NamedTuple):
    """Distribution of z; `heights` is the density in each bin, mean and std are over all z."""

    mean: float
    std: float
    heights: list[float]


class ZScores(NamedTuple):
    """z = (phi - mean of the shadows without the example) / their std, pooled over examples.

    First query only. The shadow densities are what the attacker expects; the target densities are
    what it meets.

    Attributes:
        edges: of the bins, one more than there are heights.
        members: audited models on the examples that they trained on.
        non_members: audited models on the other examples.
        shadows_in: shadows on the examples that they trained on.
        shadows_out: shadows on the other examples.
    """

    edges: list[float]
    members: Density
    non_members: Density
    shadows_in: Density
    shadows_out: Density


def z_scores(game: Game) -> dict[str, dict[Knowledge, ZScores]]:
    """Measure every variant's audited models by each kind of shadows.

    Args:
        game: every case has two shadows without each example.
    """
    return {
        variant: {
            kind: _measure(game, variant, kind, shadow)
            for kind, shadow in game.shadow_variants(variant).items()
        }
        for variant in game.variants
    }


def _measure(game: Game, variant: str, kind: Knowledge, shadow_variant: str) -> ZScores:
    """Measure all audited models of one variant by their shadows in another."""
    parts: list[list[Tensor]] = [[], [], [], []]
    for group, positions in by_shadows(game.cases).items():
        audited = [game.cases[position].target for position in positions]
        shadows, signals = game.shadows(shadow_variant, group, positions[0]), game.signals[variant]
        needed = ModelSignals(signals.phi, population=signals.population)
        target = needed.of(audited).read()
        if kind == "recalibrated":
            target = shadows.recalibrate(target)
        (out,) = fit_sides(shadows.phi, (~shadows.included,), "mean")
        spread = out.pooled[0].where(out.pooled[0] > 0, 1.0)  # of shadows that are all alike
        for phi, mask, sides in (
            (target.phi, game.members[audited], parts[:2]),
            (shadows.phi, shadows.included, parts[2:]),
        ):
            z = (phi[..., :][:, 0].double() - out.location[0]) / spread
            for side, chosen in zip(sides, (mask, ~mask), strict=True):
                side.append(z[chosen].float())
    joined = [torch.cat(side) for side in parts]
    edges = _edges(joined)
    return ZScores(edges.tolist(), *(_density(side, edges) for side in joined))


def _edges(parts: Sequence[Tensor]) -> Float[Tensor, " edges"]:
    """Bins over all that is common; by sorting, because `quantile` takes at most 2^24 numbers."""
    ends: list[float] = []
    for part in parts:
        ordered, beyond = part.sort().values, int(_BEYOND * len(part))
        ends += ordered[[beyond, -1 - beyond]].tolist() if len(part) else []
    low, high = min(ends), max(ends)
    return torch.linspace(low, high if high > low else low + 1, BINS + 1)


def _density(z: Float[Tensor, " signals"], edges: Float[Tensor, " edges"]) -> Density:
    if not len(z):  # offline: no shadow trained on an audited example
        return Density(nan, nan, [0.0] * BINS)
    heights = torch.histogram(z, edges).hist / len(z) / (edges[1:] - edges[:-1])
    return Density(z.double().mean().item(), z.double().std(correction=0).item(), heights.tolist())
