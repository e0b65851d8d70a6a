"""Membership-inference attacks and metrics: tensors in, tensors out.

Every attack maps the signals of audited models that share their shadows (`Target`), and the
shadows, to scores `[targets, examples]`; larger is likelier a member. The functions behind the
names take plain tensors.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.game import Shadows, Target
from attacks.lira import Spread, lira_fitted, lira_offline_fitted
from attacks.lira_carlini import lira_carlini
from attacks.quantile import quantile_embeddings, quantile_regression
from attacks.reference import attack_p, attack_r
from attacks.rmia import base, log_ratio, rmia, rmia_in_pool
from attacks.threshold import gap, global_threshold


class Attack(NamedTuple):
    """One entry of the registry.

    Attributes:
        run: scores of the targets.
        needs: fields of `ModelSignals` that it needs beside phi.
        shadows: whether it uses any; without, its scores are the same whatever they are.
        default: whether `audit.py` runs it unasked.
        optional: whether a fleet records what it needs only if asked to; `audit.py` then runs it
            unasked where that is known, and does not miss it elsewhere.
        sides: how many shadows with and without each example it needs at least.
        path: import path of a user's own attack; empty for ours.
    """

    run: Callable[[Target, Shadows], Tensor]
    needs: tuple[str, ...] = ()
    shadows: bool = True
    default: bool = True
    sides: tuple[int, int] = (0, 0)
    optional: bool = False
    path: str = ""


def _rmia(target: Target, shadows: Shadows, online: bool) -> Tensor:
    a = shadows.rmia.a
    ratios = log_ratio(target.phi, shadows.phi, shadows.included, online, a)
    if shadows.rmia.population == "pool":
        return rmia_in_pool(ratios)
    nobody = torch.zeros(shadows.population.shape[::2], dtype=torch.bool)
    return rmia(ratios, log_ratio(target.population, shadows.population, nobody, online, a))


def _lira(spread: Spread) -> Attack:
    return Attack(lambda t, s: lira_fitted(t.phi, s.inside, s.outside, spread), sides=(2, 2))


def _lira_offline(spread: Spread) -> Attack:
    return Attack(lambda t, s: lira_offline_fitted(t.phi, s.outside, spread), sides=(0, 2))


def _carlini(online: bool, fixed: bool) -> Attack:
    def run(target: Target, shadows: Shadows) -> Tensor:
        return lira_carlini(target.phi, shadows.phi, shadows.included, online, fixed)

    return Attack(run, default=False, sides=(2 if online else 0, 2))


# `example` and `fixed`, not `auto`, so that a name means one formula whatever the fleet's size
ATTACKS: dict[str, Attack] = {
    "gap": Attack(lambda t, _: gap(t.hinge > 0), ("hinge",), shadows=False),
    "global_threshold": Attack(lambda t, _: global_threshold(t.phi), shadows=False),
    # with one query it ranks as the global threshold
    "attack_p": Attack(lambda t, _: attack_p(t.phi, t.population), ("population",), False, False),
    "quantile_regression": Attack(
        lambda t, _: quantile_regression(t.hinge, t.population_hinge, *t.features),
        ("hinge", "population_hinge", "features"),
        shadows=False,
    ),
    "quantile_embeddings": Attack(
        lambda t, _: quantile_embeddings(
            t.hinge, t.population_hinge, t.embeddings, t.population_embeddings, *t.labels
        ),
        ("hinge", "population_hinge", "embeddings", "population_embeddings", "labels"),
        shadows=False,
        default=False,
        optional=True,
    ),
    "attack_r": Attack(lambda t, s: attack_r(t.phi, s.phi, s.included), sides=(0, 1)),
    "base": Attack(lambda t, s: base(t.phi, s.phi), default=False),  # and this as rmia_online
    "rmia_online": Attack(lambda t, s: _rmia(t, s, online=True), ("population",), sides=(1, 1)),
    "rmia_offline": Attack(lambda t, s: _rmia(t, s, online=False), ("population",), sides=(0, 1)),
    "lira_online": _lira("example"),
    "lira_online_fixed": _lira("fixed"),
    "lira_offline": _lira_offline("example"),
    "lira_offline_fixed": _lira_offline("fixed"),
    "lira_online_carlini": _carlini(online=True, fixed=False),
    "lira_online_fixed_carlini": _carlini(online=True, fixed=True),
    "lira_offline_carlini": _carlini(online=False, fixed=False),
    "lira_offline_fixed_carlini": _carlini(online=False, fixed=True),
}
RMIA = "rmia_online", "rmia_offline"  # their population is chosen by `RmiaOptions`
DEFAULT_ATTACKS = tuple(name for name, attack in ATTACKS.items() if attack.default)
