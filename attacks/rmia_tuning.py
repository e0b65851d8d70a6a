"""Offline RMIA's `a`, chosen on shadows that pose as targets: the attacker knows their members.

Source: Zarifzadeh et al. 2024, arXiv:2312.03262, who choose it on a pair of their own models. The
audited model takes no part: neither its signals nor its members are read.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from attacks.cases import by_shadows
from attacks.game import Game
from attacks.metrics.roc import auc, roc
from attacks.rmia import log_means, log_mixture, rmia, rmia_in_pool
from attacks.slices import Sliced, slices_of

GRID = tuple(tenth / 10 for tenth in range(11))
POSING = 8  # shadows; each costs as much time as the attack itself


def tune(game: Game, attacks: Sequence[str]) -> Game:
    """Choose `a` for the shadows of every case and variant, if that is asked for and used.

    Args:
        game: signals, membership, cases and options.
        attacks: names of the attacks that will run.
    """
    if not game.rmia.tune or "rmia_offline" not in attacks:
        return game
    tuned = {}
    for variant in (*game.signals, *game.others):
        by_case = [0.0] * len(game.cases)
        for group, positions in by_shadows(game.cases).items():
            shadows = game.shadows(variant, group, positions[0])
            population = None if game.rmia.population == "pool" else shadows.population
            chosen = best_a(shadows.phi, shadows.included, population)
            for position in positions:
                by_case[position] = chosen
        tuned[variant] = by_case
    return game._replace(tuned=tuned)


def best_a(
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    population: Float[Sliced, "models queries population"] | None,
) -> float:
    """The `a` of `GRID` with the largest AUC, mean over at most 8 shadows that pose as targets.

    Each is attacked by the others without its partner, the shadow that trained on exactly the
    examples that it did not: the partner would give the answer away by counting. Examples that none
    of the others is without are omitted. Of equally good values the smallest is taken.

    Args:
        shadows: phi of each shadow model, in nats.
        included: which shadow trained on which example.
        population: their phi on examples that none trained on; None to compare with the pool.

    Raises:
        ValueError: no shadow trained on some examples and not on others.
    """
    mixed = (included.any(1) & ~included.all(1)).nonzero().flatten().tolist()
    if not mixed:
        raise ValueError(
            "Tuning RMIA's `a` needs shadows that trained on some of the audited examples and not "
            "on others, got none. Pass a number as `--rmia.a`."
        )
    posing = mixed[:: max(1, len(mixed) // POSING)][:POSING]
    areas = torch.stack([_areas(pose, shadows, included, population) for pose in posing])
    return GRID[int(areas.mean(0).argmax())]


def _areas(
    pose: int,
    shadows: Float[Sliced, "models queries examples"],
    included: Bool[Tensor, "models examples"],
    population: Float[Sliced, "models queries population"] | None,
) -> Float[Tensor, " grid"]:
    """AUC of offline RMIA against one posing shadow, for each `a` of `GRID`."""
    others = (included == included[pose]).any(1)  # false for its partner
    others[pose] = False
    outside = ~included & others[:, None]
    usable = outside.any(0)
    means = _read(shadows, pose, outside)
    aside = None
    if population is not None:
        aside = _read(population, pose, others[:, None].expand(-1, population.shape[-1]))
    areas = []
    for a in GRID:
        ratios = _ratios(means, a)[:, usable]
        scores = rmia_in_pool(ratios) if aside is None else rmia(ratios, _ratios(aside, a))
        areas.append(auc(roc(scores, included[pose, usable])))
    return torch.stack(areas)


def _read(
    signal: Float[Sliced, "models queries examples"],
    pose: int,
    outside: Bool[Tensor, "models examples"],
) -> Float[Tensor, "3 queries examples"]:
    """Log P of the posing shadow, log mean P of the shadows outside, and log mean 1 - P."""
    read = torch.empty(3, *signal.shape[1:], dtype=torch.float64)
    for part in slices_of(signal):
        phi, weights = signal[..., part].double(), outside[:, part].double()
        read[0, :, part] = logsigmoid(phi[pose])
        read[1, :, part], read[2, :, part] = log_means(phi, weights / weights.sum(0))
    return read


def _ratios(
    read: Float[Tensor, "3 queries examples"], a: float
) -> Float[Tensor, "queries examples"]:
    return read[0] - log_mixture(read[1], read[2], (1 + a) / 2)
