"""Where members and others stand among an attacker's shadows: the picture of a mismatch.

LiRA asks how far a signal is from what shadows show without the example, and with it. If quantizing
the target moves its signals, full-precision shadows expect members and others where they are not.
"""

from collections.abc import Mapping, Sequence
from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.game import Case, Knowledge, Observed, by_shadows
from attacks.lira import fit_sides

BINS = 60
_BEYOND = 0.002  # share of each tail that the picture leaves out


class Density(NamedTuple):
    """How z is distributed; `heights` is the density in each bin, mean and std are of all."""

    mean: float
    std: float
    heights: list[float]


class Standing(NamedTuple):
    """z = (phi - mean of the shadows without the example) / their std, pooled over examples.

    Of the first query. What the attacker expects is the shadows'; what there is, the targets'.

    Attributes:
        edges: of the bins, one more than there are heights.
        members: audited models on the examples that they trained on.
        others: audited models on the rest.
        shadows_in: shadows on the examples that they trained on.
        shadows_out: shadows on the rest.
    """

    edges: list[float]
    members: Density
    others: Density
    shadows_in: Density
    shadows_out: Density


def stand(
    targets: Observed,
    shadows: Observed,
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
) -> Standing:
    """Measure all audited models by their shadows.

    Args:
        targets: signals of all models in the variant that is attacked.
        shadows: signals of all models in the variant that the attacker's shadows are.
        members: which model trained on which example.
        cases: who is audited, and by whom; two shadows lack each example.
    """
    parts: list[list[Tensor]] = [[], [], [], []]
    for group, positions in by_shadows(cases).items():
        rows, audited = list(group), [cases[position].target for position in positions]
        seen, inside = shadows.phi[rows], members[rows]
        (out,) = fit_sides(seen, (~inside,), "mean")
        spread = out.pooled[0].where(out.pooled[0] > 0, 1.0)  # of shadows that are all alike
        for some, mask, sides in (
            (targets.phi[audited], members[audited], parts[:2]),
            (seen, inside, parts[2:]),
        ):
            z = (some[..., :][:, 0].double() - out.location[0]) / spread
            for side, chosen in zip(sides, (mask, ~mask), strict=True):
                side.append(z[chosen].float())
    joined = [torch.cat(side) for side in parts]
    edges = _edges(joined)
    return Standing(edges.tolist(), *(_density(side, edges) for side in joined))


def stand_all(
    seen: Mapping[str, Observed],
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
) -> dict[str, dict[Knowledge, Standing]]:
    """Measure every variant by matched shadows and, but for `full` itself, by full-precision ones.

    Args:
        seen: signals of all models, by variant.
        members: which model trained on which example.
        cases: who is audited, and by whom.
    """
    found: dict[str, dict[Knowledge, Standing]] = {}
    for variant, some in seen.items():
        found[variant] = {"matched": stand(some, some, members, cases)}
        if variant != "full" and "full" in seen:
            found[variant]["full"] = stand(some, seen["full"], members, cases)
    return found


def _edges(parts: Sequence[Tensor]) -> Float[Tensor, " edges"]:
    """Bins over all that is common; by sorting, as `quantile` takes no more than 2^24 numbers."""
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
