"""Quantile regression against a slow loop with NumPy, and on hinges of known location and scale."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.model_selection import KFold

from attacks.metrics.roc import auc, roc
from attacks.quantile import make_features, quantile_regression


def hinges(seed=0, leak=1.5, queries=1, population=2000, examples=3000):
    """Hinge mu(x) + sigma(x) noise, members' higher by `leak` sigma; the features are x."""
    rng = np.random.default_rng(seed)
    total = examples + population
    x = rng.normal(size=(total, 20))
    x[:, :10] = np.eye(10)[rng.integers(10, size=total)]
    mu = 3 * x[:, :10] @ rng.normal(size=10) + 2 * x[:, 10] + x[:, 11]
    sigma = np.exp(0.6 * x[:, 12])
    members = rng.random(examples) < 0.5
    noise = rng.normal(size=(queries, total))
    noise[:, :examples] += leak * members
    hinge, x = torch.from_numpy(mu + sigma * noise), torch.from_numpy(x)
    signals = hinge[:, :examples], hinge[:, examples:], x[:examples], x[examples:]
    return signals, torch.from_numpy(members)


def slow_ridge(x, y, new):
    """Least squares with 10 |w|^2 on standardized features, from the normal equations."""
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std
    weight = np.linalg.solve(z.T @ z + 10 * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    return y.mean() + (new - mean) / std @ weight


def test_matches_normal_equations():
    signals, _ = hinges(queries=2, population=101, examples=50)
    target, population, new, x = (a.numpy() for a in signals)
    scores = []
    for t, y in zip(target, population, strict=True):
        residual = np.zeros(len(y))
        for rest, fold in KFold(5, shuffle=True, random_state=0).split(x):
            residual[fold] = np.abs(y[fold] - slow_ridge(x[rest], y[rest], x[fold]))
        log = np.log(np.maximum(residual, 1e-3 * residual.mean()))
        log_normal = norm.expect(lambda z: np.log(np.abs(z)), lb=0) * 2
        sigma = np.exp(slow_ridge(x, log - log_normal, new))
        scores.append((t - slow_ridge(x, y, new)) / sigma)
    np.testing.assert_allclose(quantile_regression(*signals), np.mean(scores, 0), rtol=1e-6)


def test_beats_one_threshold_for_all():
    signals, members = hinges()
    found = auc(roc(quantile_regression(*signals), members)).item()
    best = norm.cdf(1.5 / np.sqrt(2))
    assert found == pytest.approx(best, abs=0.03)
    assert found > auc(roc(signals[0][0], members)).item() + 0.15


def test_scores_of_the_unseen_are_standard_normal():
    signals, members = hinges(leak=0.0)
    scores = quantile_regression(*signals)
    assert auc(roc(scores, members)).item() == pytest.approx(0.5, abs=0.03)
    assert scores.mean().item() == pytest.approx(0, abs=0.06)
    assert scores.std().item() == pytest.approx(1, abs=0.06)


def test_sigma_is_not_that_of_the_training_fit():
    """As many features as examples: the fit's own residuals are far too small."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(260, 40)), rng.normal(size=(1, 260))
    parts = y[:, :200], y[:, 200:], x[:200], x[200:]
    scores = quantile_regression(*(torch.from_numpy(part) for part in parts))
    assert scores.abs().median().item() < 1.5


def test_several_targets_get_what_they_get_alone():
    runs = [hinges(seed, queries=2, population=300, examples=100)[0] for seed in range(3)]
    features = runs[0][2:]
    alone = torch.stack([quantile_regression(*run[:2], *features) for run in runs])
    target, population = (torch.stack([run[i] for run in runs]) for i in range(2))
    together = quantile_regression(target, population, *features)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert torch.equal(quantile_regression(target, population, *features), together)
    population[1, 0, 7] = torch.nan
    broken = quantile_regression(target, population, *features)
    assert broken[1].isnan().all()
    torch.testing.assert_close(broken[[0, 2]], alone[[0, 2]], rtol=1e-9, atol=1e-9)


def test_a_constant_hinge_stays_finite():
    signals, _ = hinges(population=50, examples=30)
    target, population, *features = signals
    assert quantile_regression(target, torch.ones_like(population), *features).isfinite().all()


def test_population_too_small():
    target, population, features, others = hinges(population=19, examples=30)[0]
    with pytest.raises(ValueError, match=r"population of 20 or more, got 19\. Hold out"):
        quantile_regression(target, population, features, others)


@pytest.mark.parametrize("wrong", ["columns", "examples", "population"])
def test_features_that_do_not_fit(wrong):
    target, population, features, others = hinges(population=25, examples=30)[0]
    if wrong == "examples":
        features = features[1:]
    else:
        others = others[:, 1:] if wrong == "columns" else others[1:]
    with pytest.raises(ValueError, match=r"Features must be 30 and 25 rows .* `make_features`"):
        quantile_regression(target, population, features, others)


def test_features_are_classes_and_principal_components(rng):
    """Components from the eigenvectors of the population's covariance, up to their sign."""
    scale = torch.tensor([100, 40, 15, 5] + [1] * 12)
    drawn = 128 + torch.randn(300, 16, generator=rng) * scale
    images = drawn.clamp(0, 255).byte().view(300, 1, 4, 4)
    labels = torch.randint(3, (300,), generator=rng)
    labels[0] = 3  # no such class in the population
    parts = images[:100], labels[:100], images[100:], labels[100:]
    features, others = make_features(*parts, components=4)
    assert torch.equal(features[:, :4].argmax(1), labels[:100])
    assert (torch.cat([features, others])[:, :4].sum(1) == 1).all()
    pixels = images.flatten(1).double().numpy() / 255
    mean = pixels[100:].mean(0)
    _, vectors = np.linalg.eigh(np.cov(pixels[100:].T))
    expected = np.abs((pixels - mean) @ vectors[:, ::-1][:, :4])
    found = torch.cat([features, others])[:, 4:].abs()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = make_features(*parts, components=4)
    assert torch.equal(again[0], features)
    assert torch.equal(again[1], others)


def test_no_more_components_than_there_are(rng, monkeypatch):
    images = torch.randint(256, (60, 3, 2, 2), generator=rng, dtype=torch.uint8)
    labels = torch.arange(60) % 2
    parts = images[:20], labels[:20], images[20:], labels[20:]
    features, others = make_features(*parts)
    assert features.shape == (20, 2 + 12)
    assert others.shape == (40, 2 + 12)
    monkeypatch.setattr("attacks.quantile._SLICE", 7)
    torch.testing.assert_close(make_features(*parts)[0], features, rtol=1e-5, atol=1e-6)


def test_large_images_give_the_same_features_again(rng):
    images = torch.randint(256, (700, 1, 24, 24), generator=rng, dtype=torch.uint8)
    labels = torch.arange(700) % 2
    parts = images[:50], labels[:50], images[50:], labels[50:]
    first, second = make_features(*parts), make_features(*parts)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
