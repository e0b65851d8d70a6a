"""RMIA's population and tuned `a`, against slow loops and where the best `a` is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks import ATTACKS
from attacks.cases import make_cases
from attacks.choice import choose_attacks, unknown
from attacks.evaluate import score
from attacks.game import Game, ModelSignals
from attacks.rmia import RmiaOptions, log_ratio, make_options, rmia_in_pool
from attacks.rmia_tuning import GRID, POSING, best_a, tune


def slow_rmia(target, shadows, included, online, a, population=None):
    """Scores of one target in probabilities, pair by pair; `population` has phi of both.

    Source: arXiv:2312.03262, with gamma = 1.
    """

    def ratios(own, others, inside):
        own, others = (1 / (1 + np.exp(-x.double().numpy())) for x in (own, others))
        found = np.empty(own.shape)
        for q, j in np.ndindex(own.shape):
            has = inside[:, j].numpy()
            average = others[~has, q, j].mean()
            if not online:
                average = ((1 + a) * average + 1 - a) / 2
            elif has.any():
                average = (others[has, q, j].mean() + average) / 2
            found[q, j] = own[q, j] / average
        return found

    own = ratios(target, shadows, included)
    queries, examples = own.shape
    scores = np.zeros(examples)
    for j in range(examples):
        if population is None:
            others = [z for z in range(examples) if z != j]
            scores[j] = np.mean([own[q, j] > own[q, z] for q in range(queries) for z in others])
        else:
            aside = ratios(*population, torch.zeros(len(shadows), population[0].shape[-1]).bool())
            scores[j] = np.mean([own[q, j] > z for q in range(queries) for z in aside[q]])
    return scores


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("population", ["test", "pool"])
def test_each_choice_matches_the_slow_loop(synthetic_fleet, observe, online, a, population):
    """Ties are broken by the ratio, by less than half of one example of the population."""
    phi, members = synthetic_fleet(shadows=6, targets=2, examples=24)
    signals = observe(phi)
    game = Game({"full": signals}, members, make_cases(6, 2), rmia=RmiaOptions(population, a))
    name = "rmia_online" if online else "rmia_offline"
    for (target, rows), own in zip(game.cases, score([name], game, "full")[name], strict=True):
        aside = None
        if population == "test":
            aside = signals.population[target], signals.population[rows]
        wanted = slow_rmia(phi[target], phi[rows], members[rows], online, a, aside)
        others = 23 if aside is None else 100
        assert (np.abs(own.numpy() - wanted) < 0.45 / (2 * others)).all()


def test_an_example_of_the_pool_never_exceeds_itself():
    scores = rmia_in_pool(torch.tensor([[3.0, 1.0, 2.0]]))
    assert (2 * scores).round().tolist() == [2, 0, 1]  # shares of the two others
    assert rmia_in_pool(torch.zeros(1, 4)).tolist() == [0] * 4
    assert rmia_in_pool(torch.ones(1, 1)).isfinite().all()


def test_the_pool_needs_no_population(synthetic_fleet):
    phi, members = synthetic_fleet(shadows=6, examples=24)
    game = Game({"full": ModelSignals(phi)}, members, make_cases(6, 2))
    assert unknown("rmia_online", game) == ["signals on a population"]
    pool = game._replace(rmia=RmiaOptions("pool"))
    assert unknown("rmia_online", pool) == unknown("rmia_offline", pool) == []
    assert unknown("attack_p", pool) == ["signals on a population"]
    assert "rmia_offline" in choose_attacks(None, pool).attacks
    assert score(["rmia_online"], pool, "full")["rmia_online"].isfinite().all()


def test_options_are_checked():
    assert make_options("test", 0.3) == RmiaOptions()
    assert make_options("pool", 1.0) == RmiaOptions("pool", 1.0)
    assert make_options("pool", "tuned") == RmiaOptions("pool", tune=True)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`--rmia.a` must be 0 to 1 or `tuned`, got"):
            make_options("test", wrong)


def slow_best_a(phi, included, population):
    """AUC of every posing shadow against the others without its partner, for each `a`."""
    step, areas = max(1, len(phi) // POSING), []
    for pose in list(range(0, len(phi), step))[:POSING]:
        partner = [m for m in range(len(phi)) if (included[m] == ~included[pose]).all()]
        rows = [m for m in range(len(phi)) if m != pose and m not in partner]
        usable = ~included[rows].all(0)
        own, others = phi[pose][:, usable], phi[rows][..., usable]
        for a in GRID:
            ratios = log_ratio(own, others, included[rows][:, usable], online=False, a=a)
            scores = rmia_in_pool(ratios)
            if population is not None:
                nobody = torch.zeros(len(rows), population.shape[-1]).bool()
                asides = population[rows]
                aside = log_ratio(population[pose], asides, nobody, online=False, a=a)
                pairs = ratios[:, :, None] > aside[:, None]
                scores = pairs.double().mean((0, 2)) + 1e-6 * ratios.mean(0).atan()
            areas.append(roc_auc_score(included[pose, usable], scores))
    return np.array(areas).reshape(-1, len(GRID)).mean(0)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_the_best_a_matches_a_slow_search(synthetic_fleet, rng, paired, pool):
    phi, members = synthetic_fleet(shadows=12, targets=0, examples=60)
    aside, _ = synthetic_fleet(0, 12, 50, leak=0, seed=3)
    included = members if paired else torch.rand(12, 60, generator=rng) < 0.5
    included[:, 5] |= not paired  # an example that all trained on tells nothing
    population = None if pool else aside
    areas = slow_best_a(phi, included, population)
    assert best_a(phi, included, population) == GRID[int(areas.argmax())]
    assert areas.max() > areas.min()


@pytest.mark.parametrize(("ratio", "best"), [(1.4, 0.0), (1.75, 0.3), (2.2, 0.6), (3.6, 1.0)])
@pytest.mark.parametrize("pool", [True, False])
def test_the_best_a_is_known_by_construction(rng, ratio, best, pool):
    """Hard examples have P = 0.2 outside and 0.8 / ratio inside, easy ones 0.8 and 0.95.

    Members of the hard kind exceed non-members of the easy kind where (1.8 - 0.2 a) / (1.2 - 0.8 a)
    is above `ratio`, and every other pair of a member and a non-member is in order for each `a`.
    """
    half = torch.rand(6, 80, generator=rng).argsort(1) < 40
    included = torch.stack([half, ~half], 1).flatten(0, 1)
    hard = torch.arange(80) < 40
    p = torch.where(included, torch.where(hard, 0.8 / ratio, 0.95), torch.where(hard, 0.2, 0.8))
    population = None if pool else torch.randn(12, 1, 50, generator=rng)
    assert best_a(torch.logit(p.double())[:, None], included, population) == best
    wanted = [a for a in GRID if (1.8 - 0.2 * a) / (1.2 - 0.8 * a) > ratio]
    assert wanted[0] == best  # the smallest of those that put all pairs in order


def test_tuning_reads_no_target(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=60)
    options = RmiaOptions("test", tune=True)
    game = Game({"full": observe(phi)}, members, make_cases(8, 2), rmia=options)
    assert tune(game, ["rmia_online"]) == game
    assert tune(game._replace(rmia=RmiaOptions()), ["rmia_offline"]).tuned == {}
    (chosen,) = set(tune(game, ["rmia_offline"]).tuned["full"])
    phi[8:], members[8:] = torch.nan, ~members[8:]
    changed = game._replace(signals={"full": observe(phi)}, members=members)
    assert tune(changed, ["rmia_offline"]).tuned == {"full": [chosen] * 2}


def test_a_tuned_a_is_used_case_by_case(synthetic_fleet, observe):
    """Where each shadow is audited, each pair has a choice of its own."""
    phi, members = synthetic_fleet(shadows=8, targets=0, examples=60)
    game = Game({"full": observe(phi)}, members, make_cases(8, 0))
    by_case = [0.0, 0.0, 0.5, 0.5, 0.9, 0.9, 0.3, 0.3]
    tuned = score(["rmia_offline"], game._replace(tuned={"full": by_case}), "full")
    for position, a in enumerate(by_case):
        fixed = game._replace(rmia=RmiaOptions(a=a))
        wanted = score(["rmia_offline"], fixed, "full")["rmia_offline"][position]
        assert torch.equal(tuned["rmia_offline"][position], wanted)
    chosen = tune(game._replace(rmia=RmiaOptions(tune=True)), list(ATTACKS)).tuned["full"]
    assert len(chosen) == 8
    assert all(chosen[i] == chosen[i + 1] for i in range(0, 8, 2))


def test_shadows_without_members_cannot_pose():
    with pytest.raises(ValueError, match="needs shadows that trained on some of the audited"):
        best_a(torch.zeros(4, 1, 5), torch.zeros(4, 5).bool(), None)
