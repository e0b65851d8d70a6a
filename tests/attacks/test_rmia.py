"""RMIA and BASE against the slow loops: 80 digits for the averages, all pairs for the shares."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from attacks.metrics.intervals import delong
from attacks.rmia import base, log_ratio, rmia


def awkward(kind, seed=0):
    """Draw float32 phi, and Bernoulli splits of an odd number of models, at least one per side."""
    rng = np.random.default_rng(seed)
    included = rng.random((13, 30)) < 0.4
    included[0], included[1] = True, False
    shadows = 3 * rng.normal(size=(13, 2, 30)) + 2 * included[:, None]
    target = 3 * rng.normal(size=(2, 30))
    if kind == "saturated":
        shadows, target = 60 * np.sign(shadows), 60 * np.sign(target)
    elif kind != "ordinary":  # P = 1 - 9e-27 or 9e-27
        level = {"ties": 0, "high": 60, "low": -60}[kind]
        shadows, target = shadows.round() + level, target.round() + level
    return torch.tensor(target).float(), torch.tensor(shadows).float(), torch.tensor(included)


def slow_log_ratio(target, shadows, included, online, a=0.3):
    ratios, a = np.empty(target.shape), Decimal(a)
    with localcontext(prec=80):
        for q, j in np.ndindex(ratios.shape):
            phi, has = [target[q, j], *shadows[:, q, j]], included[:, j].numpy()
            p = np.array([1 / (1 + (-Decimal(x.item())).exp()) for x in phi])
            average = p[1:][~has].mean()
            if not online:
                average = ((1 + a) * average + (1 - a)) / 2
            elif has.any():
                average = (p[1:][has].mean() + average) / 2
            ratios[q, j] = (p[0] / average).ln()
    return ratios


@pytest.mark.parametrize("kind", ["ordinary", "ties", "high", "low", "saturated"])
@pytest.mark.parametrize(("online", "a"), [(True, 0.3), (False, 0.0), (False, 0.3), (False, 1.0)])
@pytest.mark.parametrize("pool", [True, False], ids=["pool", "population"])
def test_log_ratio_matches_decimals(kind, online, a, pool):
    """To 9 digits even for P = 1 - 9e-27, where logsumexp alone would leave noise of 1e-16."""
    target, shadows, included = awkward(kind)
    signals = target, shadows, included & pool
    expected, atol = slow_log_ratio(*signals, online, a), 1e-40 if kind == "high" else 1e-15
    np.testing.assert_allclose(log_ratio(*signals, online, a), expected, 1e-9, atol)
    if online and not pool:
        np.testing.assert_allclose(base(target, shadows), expected.mean(0), 1e-9, atol)


def test_base_ranks_as_online_rmia_on_balanced_splits(case):
    targets, shadows, included, *population = (t[:, :1] if t.ndim == 3 else t for t in case)
    online, _, bases = all_scores(targets, shadows, included, *population)
    assert (online.gather(-1, bases.argsort(-1)).diff() > -1e-12).all()


@pytest.mark.parametrize("step", [1 / 2, 2**-20], ids=["ties", "few-ties"])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [1, 37])
def test_rmia_counts_all_pairs(step, gamma, size):
    rng = np.random.default_rng(0)
    ratios, population = (step * np.round(rng.normal(size=(2, n)) / step) for n in (200, size))
    pairs = ratios[:, :, None] - math.log(gamma) > population[:, None]
    exceeded, mean = pairs.sum((0, 2)), ratios.mean(0)
    scores = rmia(torch.from_numpy(ratios), torch.from_numpy(population), gamma).numpy()
    assert (np.rint(2 * size * scores) == exceeded).all()
    order = np.lexsort((mean, exceeded))  # by share, then by ratio
    differ = (np.diff(mean[order]) != 0) | (np.diff(exceeded[order]) != 0)
    assert (np.sign(np.diff(scores[order])) == differ).all()


@pytest.mark.parametrize(("online", "gamma"), [(True, 1.0), (True, 2.0), (False, 2.0)])
def test_rmia_matches_the_paper_in_probabilities(online, gamma):
    own, other = awkward("ordinary"), awkward("ordinary", seed=1)
    other = *other[:2], torch.zeros_like(other[2])
    x, z = (np.exp(slow_log_ratio(*signals, online)) for signals in (own, other))
    expected = (x[:, :, None] / z[:, None] > gamma).mean((0, 2))
    scores = rmia(log_ratio(*own, online), log_ratio(*other, online), gamma)
    assert (np.abs(scores.numpy() - expected) < 0.4 / z.size).all()


def all_scores(targets, shadows, included, population, shadows_population):
    """Scores of online and offline RMIA and of BASE; the last two arguments are phi too."""
    nowhere = torch.zeros(len(shadows_population), population.shape[-1]).bool()
    scores = []
    for online in (True, False):
        ratios = log_ratio(population, shadows_population, nowhere, online)
        scores.append(rmia(log_ratio(targets, shadows, included, online), ratios))
    return torch.stack([*scores, base(targets, shadows)])


@pytest.fixture
def case(synthetic_fleet):
    """Phi of 2 targets and of 12 shadows, their membership, and both phi on a population."""
    (phi, members), (aside, _) = synthetic_fleet(), synthetic_fleet(examples=90, leak=0, seed=1)
    return phi[12:], phi[:12], members[:12], aside[12:], aside[:12]


def test_other_targets_slices_and_order_do_not_matter(monkeypatch, rng, case):
    (targets, shadows, included, aside, asides), scores = case, all_scores(*case)
    alone = [all_scores(targets[t], shadows, included, aside[t], asides) for t in range(2)]
    assert torch.equal(scores, torch.stack(alone, 1))
    models, j, z = (torch.randperm(size, generator=rng) for size in (12, 240, 90))
    mixed = targets[..., j], shadows[models][..., j], included[models][:, j]
    shuffled = all_scores(*mixed, aside[..., z], asides[models][..., z])
    # averages are sums over 12 models in another order: 12 x 2^-53 of themselves
    torch.testing.assert_close(shuffled, scores[..., j], rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("attacks.slices.NUMBERS", 100)
    torch.testing.assert_close(all_scores(*case), scores, rtol=1e-9, atol=1e-12)
    assert torch.equal(*(log_ratio(targets, shadows, side, True) for side in (included, ~included)))


@pytest.mark.parametrize("leak", [1.5, 0.0])
def test_members_score_higher_if_and_only_if_they_leak(synthetic_fleet, leak):
    phi, members = synthetic_fleet(examples=1000, leak=leak)
    aside, _ = synthetic_fleet(examples=1000, leak=0, seed=1)
    for scores in all_scores(phi[-1], phi[:12], members[:12], aside[-1], aside[:12]):
        area, swapped = delong(scores, members[-1]), delong(scores, ~members[-1])
        assert swapped.value == pytest.approx(1 - area.value)
        assert area.low > 0.6 if leak else area.low <= 0.5 <= area.high


def test_a_diverged_model_counts_only_where_it_is_used(rng):
    target, shadows, included = awkward("ordinary")
    shadows[0] = torch.nan  # trained on everything
    assert log_ratio(target, shadows, included, online=False).isfinite().all()
    assert log_ratio(target, shadows, included, online=True).isnan().all()
    ratios, population = (torch.randn(2, 1, size, generator=rng) for size in (5, 4))
    population[1, 0, 2] = torch.nan
    assert rmia(ratios, population).isnan().tolist() == [[False] * 5, [True] * 5]


def test_arguments_without_an_average_or_a_population_are_refused():
    target, phi = torch.zeros(1, 2), torch.zeros(3, 1, 2)
    included = torch.tensor([[False, True], [False, False], [False, True]])
    with pytest.raises(ValueError, match="did not train on an example, but all 3 trained"):
        log_ratio(target, phi, ~included, online=False)
    with pytest.raises(ValueError, match=r"got 0 for one example and 2 for another.*online=False"):
        log_ratio(target, phi, included, online=True)
    with pytest.raises(ValueError, match=r"`a` must be 0 to 1, .* got 1.5"):
        log_ratio(target, phi, included, online=False, a=1.5)
    with pytest.raises(ValueError, match="population, got 0 examples"):
        rmia(target, torch.zeros(1, 0))
    with pytest.raises(ValueError, match="`gamma` must be positive, got 0"):
        rmia(target, target, gamma=0.0)
