"""Joint LiRA against a slow loop with SciPy, and against theory."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from attacks.joint_lira import lira_joint
from attacks.lira import lira
from attacks.metrics.roc import auc, roc
from attacks.slices import Stacked


def awkward(kind: str, queries: int = 2, seed: int = 0):
    """Draw three versions, and Bernoulli splits of an odd number of models: unequal counts."""
    rng = np.random.default_rng(seed)
    models, versions, examples = 13, 3, 40
    included = rng.random((models, examples)) < 0.5
    included[:3], included[3:6] = True, False  # at least three per side
    common = rng.normal(size=(models + 1, 1, queries, examples))
    phi = common + 0.5 * rng.normal(size=(models + 1, versions, queries, examples))
    phi[:-1] += np.array([2, 1, 0.5])[:, None, None] * included[:, None, None]
    if kind == "saturated":
        phi[:, :, :, ::3] *= 1e4
        phi[-1, 1, :, ::2] *= 1e4
    elif kind == "zero spread":
        phi[:-1, 1, :, ::2] = 1.5
        phi[:-1, 2], phi[-1, 2] = -0.25, -0.25 + 0.01 * phi[-1, 2]  # 10 of its floor of 1e-3
    return tuple(torch.from_numpy(array) for array in (phi[-1], phi[:-1], included))


def slow_joint(target, shadows, included, spread, location):
    """Follow the docstrings, for one query and example at a time."""
    target, shadows, included = (t.numpy() for t in (target, shadows, included))
    _, versions, queries, examples = shadows.shape
    middle, excess = (np.median, np.pi / 2) if location == "median" else (np.mean, 1)
    scores = np.zeros((queries, examples))
    for q in range(queries):
        sides = []
        for side in (included, ~included):
            values = [shadows[side[:, j], :, q, j] for j in range(examples)]
            mu = np.stack([middle(x, axis=0) for x in values])
            residuals = np.concatenate([x - m for x, m in zip(values, mu, strict=True)])
            pooled = np.sqrt((residuals**2).mean(0))
            sd = np.stack([pooled if spread == "fixed" else x.std(0) for x in values])
            sd = np.maximum(sd, np.maximum(0.05 * pooled, 1e-3))
            z = np.concatenate([(x - m) / s for x, m, s in zip(values, mu, sd, strict=True)])
            size = np.sqrt((z**2).sum(0))
            size[size == 0] = 1
            corr = 0.99 * (z.T @ z) / np.outer(size, size)
            np.fill_diagonal(corr, 1)
            sides.append((mu, sd, corr, side.sum(0)))
        (mu_in, sd_in, corr_in, n_in), (mu_out, sd_out, corr_out, n_out) = sides
        weight = (n_in / (n_in + n_out))[:, None]
        scale = np.sqrt(weight * sd_in**2 + (1 - weight) * sd_out**2)
        shift = (mu_in - mu_out) / scale
        metric, mean = np.linalg.inv((corr_in + corr_out) / 2), shift.mean(0)
        across = np.stack([s - (s @ metric @ mean) / (mean @ metric @ mean) * mean for s in shift])
        observed = np.mean([x @ metric @ x for x in across])
        expected = (versions - 1) * excess * np.mean(1 / n_in + 1 / n_out)
        cut = min(expected / observed, 1) * across * scale
        mu_in, mu_out = mu_in - (1 - weight) * cut, mu_out + weight * cut
        for j in range(examples):
            x = target[:, q, j]
            # in units of sd, because SciPy loses 6 digits in a matrix of spreads of 1e-3 and 1
            log_in, log_out = (
                multivariate_normal.logpdf((x - mu[j]) / sd[j], cov=corr) - np.log(sd[j]).sum()
                for mu, sd, corr in ((mu_in, sd_in, corr_in), (mu_out, sd_out, corr_out))
            )
            scores[q, j] = log_in - log_out
    return scores.mean(0)


@pytest.mark.parametrize("kind", ["ordinary", "saturated", "zero spread"])
@pytest.mark.parametrize("spread", ["example", "fixed"])
@pytest.mark.parametrize("location", ["median", "mean"])
@pytest.mark.parametrize("queries", [1, 2])
def test_joint_lira_matches_a_slow_loop(kind, spread, location, queries):
    signals = awkward(kind, queries)
    expected = slow_joint(*signals, spread, location)
    scores = lira_joint(*signals, spread, location)
    # The ridge keeps the condition of 3 x 3 correlations below 300. Squares of z, which are up to
    # 1e3 where they may cancel, are off by 300 x 3 x 2^-53 = 1e-13 of themselves.
    np.testing.assert_allclose(scores, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spread", ["auto", "example", "fixed"])
@pytest.mark.parametrize("location", ["median", "mean"])
def test_a_single_version_scores_as_lira(spread, location):
    target, shadows, included = awkward("saturated")
    scores = lira_joint(target[:1], shadows[:, :1], included, spread, location)
    expected = lira(target[0], shadows[:, 0], included, spread, location)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)


def test_several_targets_score_as_each_alone(monkeypatch):
    target, shadows, included = awkward("ordinary")
    targets = torch.stack([target, -target, target + 1])
    alone = torch.stack([lira_joint(t, shadows, included) for t in targets])
    # triangular systems of condition below 300 may be solved in another order: 1e-13 of squares of
    # up to 100; in slices, correlations are also sums of 520 terms in another order, 6e-14
    together = lira_joint(targets, shadows, included)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-11)
    monkeypatch.setattr("attacks.slices.NUMBERS", 400)  # 5 examples of all shadows
    sliced = lira_joint(targets, shadows, included)
    torch.testing.assert_close(sliced, alone, rtol=1e-11, atol=1e-9)


def test_float32_and_stacked_signals_are_computed_in_float64():
    target, shadows, included = awkward("saturated")
    target, shadows = target.float(), shadows.float()
    stacked = Stacked([shadows[:, v].clone() for v in range(3)])
    scores = lira_joint(target, stacked, included, "example")
    expected = slow_joint(target.double(), shadows.double(), included, "example", "median")
    np.testing.assert_allclose(scores, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spread", ["example", "fixed"])
def test_order_and_added_constants_do_not_matter(rng, spread):
    target, shadows, included = awkward("ordinary")
    scores = lira_joint(target, shadows, included, spread)

    def check(changed, expected=scores):
        torch.testing.assert_close(changed, expected, rtol=1e-9, atol=1e-9)

    check(lira_joint(target.flip(0), shadows.flip(1), included, spread))
    check(lira_joint(target, shadows.flip(0), included.flip(0), spread))
    order = torch.randperm(40, generator=rng)
    moved = target[..., order], shadows[..., order], included[:, order]
    check(lira_joint(*moved, spread), scores[order])
    constant = torch.tensor([5.0, 0.0, -300.0]).double()[:, None, None]
    check(lira_joint(target + constant, shadows + constant, included, spread))
    check(-lira_joint(target, shadows, ~included, spread))


def gaussian(rng, shadows, shift, correlation, examples=6000, deviation=0.0):
    """Draw N(mu_j, R) out and N(mu_j + shift_j, R) in; also return the exact likelihood ratio."""
    versions = len(shift)
    correlated = torch.tensor(correlation).expand(versions, versions).clone().fill_diagonal_(1)
    root = torch.linalg.cholesky(correlated.double())
    centres = 2 * torch.randn(versions, examples, generator=rng).double()
    shifts = torch.tensor(shift).double()[:, None] + deviation * torch.randn(
        versions, examples, generator=rng
    )
    included = torch.rand(shadows, examples, generator=rng).argsort(0) < shadows // 2
    members = torch.cat([included, torch.rand(1, examples, generator=rng) < 0.5])
    noise = torch.randn(shadows + 1, versions, examples, generator=rng).double()
    phi = centres + root @ noise + shifts * members[:, None]
    towards = torch.linalg.solve(correlated.double(), shifts)
    best = ((phi[-1] - centres - shifts / 2) * towards).sum(0)
    return phi[-1][:, None], phi[:-1][:, :, None], included, members[-1], best


def area(scores, members):
    return auc(roc(scores, members)).item()


@pytest.mark.parametrize("spread", ["example", "fixed"])
@pytest.mark.parametrize("deviation", [0.0, 0.7])
def test_gaussian_signals_reach_the_likelihood_ratio(rng, spread, deviation):
    signals = gaussian(rng, 300, [1.0, 0.8, 0.2], 0.7, deviation=deviation)
    *known, members, best = signals
    if not deviation:  # Mahalanobis distance d of the sides: AUC = Phi(d / sqrt 2)
        correlation = np.full((3, 3), 0.7) + 0.3 * np.eye(3)
        distance = np.sqrt(np.array([1, 0.8, 0.2]) @ np.linalg.solve(correlation, [1, 0.8, 0.2]))
        assert area(best, members) == pytest.approx(norm.cdf(distance / np.sqrt(2)), abs=0.015)
    assert area(lira_joint(*known, spread), members) == pytest.approx(
        area(best, members), abs=0.012
    )


@pytest.mark.parametrize("shadows", [16, 64])
def test_independent_versions_tell_more_than_the_best_alone(rng, shadows):
    target, phi, included, members, _ = gaussian(rng, shadows, [1.0, 0.9, 0.8], 0.0)
    joint = area(lira_joint(target, phi, included, "fixed"), members)
    alone = [area(lira(target[v], phi[:, v], included, "fixed"), members) for v in range(3)]
    assert joint > max(alone) + 0.05


def test_with_few_shadows_correlated_versions_do_no_harm(rng):
    """Over five seeds 0.79 to 0.81; one version 0.77 to 0.78; unshrunk shifts 0.75 to 0.76."""
    target, phi, included, members, _ = gaussian(rng, 16, [1.2, 1.0, 0.8], 0.9)
    joint = area(lira_joint(target, phi, included, "fixed"), members)
    assert joint > area(lira(target[0], phi[:, 0], included, "fixed"), members)


@pytest.mark.parametrize(("spread", "loss"), [("example", 0.01), ("fixed", 0.001)])
def test_the_same_version_twice_scores_nearly_as_one(rng, spread, loss):
    """Not exactly: the ridge adds to the difference of two versions, which here is nothing."""
    target, phi, included, members, _ = gaussian(rng, 32, [1.0], 0.0)
    single = area(lira(target[0], phi[:, 0], included, spread), members)
    twice = lira_joint(target.expand(2, -1, -1), phi.expand(-1, 2, -1, -1), included, spread)
    assert twice.isfinite().all()
    assert area(twice, members) == pytest.approx(single, abs=loss)


def test_too_few_shadows_are_refused():
    included = torch.tensor([[True, False], [False, True], [True, True]])
    with pytest.raises(ValueError, match=r"2 shadow models or more .* got 1 for an example"):
        lira_joint(torch.zeros(2, 1, 2), torch.zeros(3, 2, 1, 2), included)


def test_one_diverged_shadow_is_not_silently_averaged_in():
    target, shadows, included = awkward("ordinary")
    shadows[3, 0, 0, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN of 40"):
        roc(lira_joint(target, shadows, included), torch.arange(40) % 2 == 0)
