"""Attack-R and Attack-P against slow loops over examples, one sorted list at a time."""

import math

import numpy as np
import pytest
import torch

from attacks.metrics.intervals import delong
from attacks.reference import attack_p, attack_r
from attacks.threshold import global_threshold


def awkward(kind):
    """Draw Bernoulli splits of an odd number of models, and phi of 25 population examples."""
    rng = np.random.default_rng(0)
    included = rng.random((9, 40)) < 0.5
    included[0] = False  # at least one without the example
    shadows, target = 2 * rng.normal(size=(9, 2, 40)), 4 * rng.normal(size=(2, 40))
    population = 4 * rng.normal(size=(2, 25))
    if kind == "ties":
        shadows, target, population = shadows.round(), target.round(), population.round()
    elif kind == "saturated":  # losses of 60 and 9e-27
        shadows, target, population = (60 * np.sign(x) for x in (shadows, target, population))
    elif kind == "far":  # below and above all losses of the shadows
        target = np.where(target > 0, 30 + target, 50 * target)
    return tuple(torch.from_numpy(t) for t in (target, shadows, included, population))


def loss_of(phi):
    return math.log1p(math.exp(-phi)) if phi > 0 else math.log1p(math.exp(phi)) - phi


def slow_quantile(loss, losses):
    """Interpolate the points (0, 0), (l_1, 1), ..., (l_n, n); tied losses share their middle."""
    points = [0.0, *sorted(losses)]
    equal = [k for k in range(1, len(points)) if points[k] == loss]
    if equal:
        position = sum(equal) / len(equal)
    elif loss > points[-1]:
        excess = loss - points[-1]
        position = len(losses) + excess / (1 + excess)
    else:
        k = max(k for k in range(len(points)) if points[k] < loss)
        position = k + (loss - points[k]) / (points[k + 1] - points[k])
    return position / (len(losses) + 1)


KINDS = ["ordinary", "ties", "saturated", "far"]


@pytest.mark.parametrize("kind", KINDS)
def test_attack_r_matches_slow_loop(kind):
    target, shadows, included, _ = awkward(kind)
    expected = np.zeros((2, 40))
    for q, j in np.ndindex(2, 40):
        losses = [loss_of(s.item()) for s in shadows[~included[:, j], q, j]]
        expected[q, j] = -slow_quantile(loss_of(target[q, j].item()), losses)
    scores = attack_r(target, shadows, included)
    np.testing.assert_allclose(scores, expected.mean(0), rtol=1e-11, atol=1e-15)
    assert ((scores > -1) & (scores < 0)).all()


def test_attack_r_agrees_with_numpy_between_the_losses(rng):
    """`np.quantile` of the losses and a 0, at the level that was scored, returns the loss."""
    shadows = torch.randn(7, 1, 50, generator=rng).double()
    loss = torch.nn.functional.softplus(-shadows)
    mixture = (loss * torch.rand(7, 1, 50, generator=rng)).amax(0)  # below the largest
    scores = attack_r(-mixture.expm1().log(), shadows, torch.zeros(7, 50).bool())
    for j in range(50):
        points, level = [0.0, *loss[:, 0, j].tolist()], -scores[j].item() * 8 / 7
        assert np.quantile(points, level) == pytest.approx(mixture[0, j].item(), rel=1e-9)


def test_attack_r_ranks_far_beyond_the_shadows():
    """No two targets tie, neither below the smallest loss, 4.5e-5, nor above the largest, 2.1."""
    phi = torch.cat([torch.linspace(-1e4, -2, 999), torch.linspace(-2, 700, 999)[1:]]).double()
    shadows = torch.tensor([10.0, 0.0, -2.0])[:, None, None].expand(-1, 1, len(phi))
    scores = attack_r(phi[None], shadows, torch.zeros(3, len(phi)).bool())
    assert (scores.diff() > 0).all()
    assert scores[phi == -2] == pytest.approx(-3 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_attack_p_matches_slow_loop(kind):
    target, _, _, population = awkward(kind)
    halves = np.zeros(40)  # a loss below counts 2, a tie 1
    for q, j in np.ndindex(2, 40):
        losses = [loss_of(z.item()) for z in population[q]]
        own = loss_of(target[q, j].item())
        halves[j] += sum(2 * (z < own) + (z == own) for z in losses)
    scores, mean = attack_p(target, population).numpy(), target.numpy().mean(0)
    assert (np.rint(-100 * scores) == halves).all()
    order = np.lexsort((mean, -halves))  # by share, then by phi
    differ = (np.diff(mean[order]) != 0) | (np.diff(halves[order]) != 0)
    assert (np.sign(np.diff(scores[order])) == differ).all()


def test_attack_p_with_one_query_ranks_as_the_global_threshold(rng):
    target, population = (60 * torch.randn(1, n, generator=rng).double() for n in (500, 50))
    order = global_threshold(target).argsort()
    assert (attack_p(target, population)[order].diff() > 0).all()


def test_several_targets_score_as_each_alone(synthetic_fleet):
    phi, members = synthetic_fleet()
    signals = phi[:12], members[:12]
    together = attack_r(phi[12:], *signals), attack_p(phi[12:], phi[12:, :, :50])
    for t, target in enumerate(phi[12:]):
        assert torch.equal(attack_r(target, *signals), together[0][t])
        assert torch.equal(attack_p(target, target[:, :50]), together[1][t])


def test_slices_and_order_do_not_matter(monkeypatch, rng, synthetic_fleet):
    phi, members = synthetic_fleet()
    targets, shadows, included = phi[12:], phi[:12], members[:12]
    whole, ranks = attack_r(targets, shadows, included), attack_p(targets, targets[..., :50])
    monkeypatch.setattr("attacks.slices.NUMBERS", 100)
    assert torch.equal(attack_r(targets, shadows, included), whole)
    models, j, z = (torch.randperm(size, generator=rng) for size in (12, 240, 50))
    scores = attack_r(targets[..., j], shadows[models][..., j], included[models][:, j])
    assert torch.equal(scores, whole[..., j])
    assert torch.equal(attack_p(targets[..., j], targets[..., z]), ranks[..., j])


@pytest.mark.parametrize("leak", [1.5, 0.0])
def test_members_score_higher_if_and_only_if_they_leak(synthetic_fleet, leak):
    phi, members = synthetic_fleet(examples=1000, leak=leak)
    aside, _ = synthetic_fleet(examples=1000, leak=0, seed=1)
    scores = attack_r(phi[-1], phi[:12], members[:12]), attack_p(phi[-1], aside[-1])
    for area in (delong(score, members[-1]) for score in scores):
        assert area.low > 0.6 if leak else area.low <= 0.5 <= area.high


def test_a_diverged_model_counts_only_where_it_is_used():
    target, shadows, included, population = awkward("ordinary")
    shadows[1] = torch.nan
    assert torch.equal(attack_r(target, shadows, included).isnan(), ~included[1])
    population[0, 3] = torch.nan
    assert attack_p(target, population).isnan().all()


def test_missing_shadows_or_population_are_refused():
    always = torch.tensor([[True, False], [True, True], [True, False]])
    with pytest.raises(ValueError, match="did not train on an example, but all 3 trained"):
        attack_r(torch.zeros(1, 2), torch.zeros(3, 1, 2), always)
    with pytest.raises(ValueError, match="population, got 0 examples"):
        attack_p(torch.zeros(1, 2), torch.zeros(1, 0))
