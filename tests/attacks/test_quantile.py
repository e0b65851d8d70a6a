"""Quantile regression against scikit-learn, normal equations, and hinges of known distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.metrics.roc import auc, roc
from attacks.quantile import make_features, quantile_embeddings, quantile_regression


def hinges(seed=0, leak=1.5, queries=1, population=2000, examples=3000):
    """Draw hinges mu(x) + sigma(x) noise, members' higher by `leak` sigma; the features are x."""
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


def normal_equations(x, y, new):
    """Predict by least squares with a penalty of 10 |w|^2 on standardized features."""
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std
    weight = np.linalg.solve(z.T @ z + 10 * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    return y.mean() + (new - mean) / std @ weight


def scikit_learn(x, y, new):
    return make_pipeline(StandardScaler(), Ridge(alpha=10.0)).fit(x, y).predict(new)


@pytest.mark.parametrize("ridge", [normal_equations, scikit_learn])
def test_quantile_regression_matches_other_ridge_regressions(ridge):
    signals, _ = hinges(queries=2, population=101, examples=50)
    target, population, new, x = (signal.numpy() for signal in signals)
    scores = []
    for t, y in zip(target, population, strict=True):
        residual = np.zeros(len(y))
        for rest, fold in KFold(5, shuffle=True, random_state=0).split(x):
            residual[fold] = np.abs(y[fold] - ridge(x[rest], y[rest], x[fold]))
        log = np.log(np.maximum(residual, 1e-3 * residual.mean()))
        sigma = np.exp(ridge(x, log + (np.euler_gamma + np.log(2)) / 2, new))
        scores.append((t - ridge(x, y, new)) / sigma)
    # The matrix has eigenvalues from 10 to at most 101 x 20 (its trace): condition 203, so weights
    # are off by 203 x 20 x 2^-53 = 5e-13, and the log of the smallest residual, 1e-3 of the mean,
    # by 5e-10, as one value of 101.
    expected = np.mean(scores, 0)
    np.testing.assert_allclose(quantile_regression(*signals), expected, rtol=1e-9, atol=1e-9)


def test_log_residuals_of_a_normal_are_centred():
    expected = 2 * norm.expect(lambda z: np.log(z), lb=0)
    assert expected == pytest.approx(-(np.euler_gamma + np.log(2)) / 2, abs=1e-6)


def test_quantile_regression_beats_a_single_threshold():
    signals, members = hinges()
    area = auc(roc(quantile_regression(*signals), members)).item()
    best = norm.cdf(1.5 / np.sqrt(2))
    assert area == pytest.approx(best, abs=0.03)  # four standard errors of 1,500 a side
    assert area > auc(roc(signals[0][0], members)).item() + 0.15


def test_scores_of_non_members_are_standard_normal():
    signals, members = hinges(leak=0.0)
    scores = quantile_regression(*signals)
    # three standard errors: sqrt(1 / 6) / sqrt(1500), 1 / sqrt(3000), and the fit's 1 / sqrt(2000)
    assert auc(roc(scores, members)).item() == pytest.approx(0.5, abs=0.03)
    assert scores.mean().item() == pytest.approx(0, abs=0.06)
    assert scores.std().item() == pytest.approx(1, abs=0.06)


def test_sigma_comes_from_out_of_fold_residuals():
    """With 40 features for 60 known examples, in-sample residuals are far too small."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(260, 40)), rng.normal(size=(1, 260))
    parts = y[:, :200], y[:, 200:], x[:200], x[200:]
    scores = quantile_regression(*(torch.from_numpy(part) for part in parts))
    assert scores.abs().median().item() < 1.5


def test_several_targets_score_as_each_alone_to_the_last_bit():
    runs = [hinges(seed, queries=2, population=300, examples=100)[0] for seed in range(3)]
    features = runs[0][2:]
    alone = torch.stack([quantile_regression(*run[:2], *features) for run in runs])
    target, population = (torch.stack([run[i] for run in runs]) for i in range(2))
    together = quantile_regression(target, population, *features)
    assert torch.equal(together, alone)
    population[1, 0, 7] = torch.nan
    broken = quantile_regression(target, population, *features)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], alone[[0, 2]])


def test_a_constant_hinge_stays_finite():
    signals, _ = hinges(population=50, examples=30)
    target, population, *features = signals
    assert quantile_regression(target, torch.ones_like(population), *features).isfinite().all()


def test_a_population_that_is_too_small_is_refused():
    target, population, features, others = hinges(population=19, examples=30)[0]
    with pytest.raises(ValueError, match=r"population of 20 or more, got 19\. Hold out"):
        quantile_regression(target, population, features, others)


@pytest.mark.parametrize("wrong", ["columns", "examples", "population"])
def test_features_that_do_not_fit_are_refused(wrong):
    target, population, features, others = hinges(population=25, examples=30)[0]
    if wrong == "examples":
        features = features[1:]
    else:
        others = others[:, 1:] if wrong == "columns" else others[1:]
    with pytest.raises(ValueError, match=r"Features must be 30 and 25 rows .* `make_features`"):
        quantile_regression(target, population, features, others)


def test_features_are_classes_and_principal_components(rng):
    """Against the eigenvectors of the population's covariance, up to their sign."""
    scale = torch.tensor([64, 48, 36, 27] + [1] * 12)
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
    projections = torch.cat([features, others])[:, 4:].abs()
    # The covariance is summed in float32: 200 terms, so off by 200 x 2^-24 = 1.2e-5 of its largest
    # eigenvalue at most. That is 7 times the smallest gap (64^2 / (36^2 - 27^2)): vectors turn by
    # up to 9e-5, and mix in projections of 3 x 64 / 255 = 0.75 at most.
    np.testing.assert_allclose(projections, expected, atol=1e-4)
    again = make_features(*parts, components=4)
    assert torch.equal(again[0], features)
    assert torch.equal(again[1], others)


def test_there_are_no_more_components_than_pixels(rng):
    images = torch.randint(256, (60, 3, 2, 2), generator=rng, dtype=torch.uint8)
    labels = torch.arange(60) % 2
    parts = images[:20], labels[:20], images[20:], labels[20:]
    features, others = make_features(*parts)
    assert features.shape == (20, 2 + 12)
    assert others.shape == (40, 2 + 12)


def test_features_of_an_image_do_not_depend_on_the_images_beside_it(rng, monkeypatch):
    images = torch.randint(256, (400, 3, 20, 20), generator=rng, dtype=torch.uint8)
    labels = torch.randint(10, (400,), generator=rng)
    population, order = (images[300:], labels[300:]), torch.randperm(300, generator=rng)
    features, _ = make_features(images[:300], labels[:300], *population)
    shuffled, _ = make_features(images[order], labels[order], *population)
    assert torch.equal(shuffled, features[order])
    single, _ = make_features(images[7:8], labels[7:8], *population)
    assert torch.equal(single, features[7:8])
    monkeypatch.setattr("attacks.quantile._SLICE", 7)
    assert torch.equal(make_features(images[:300], labels[:300], *population)[0], features)


def test_large_images_give_the_same_features_again(rng):
    images = torch.randint(256, (700, 1, 24, 24), generator=rng, dtype=torch.uint8)
    labels = torch.arange(700) % 2
    parts = images[:50], labels[:50], images[50:], labels[50:]
    first, second = make_features(*parts), make_features(*parts)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def embedded(seed=0, targets=2, queries=1, population=1500, examples=2000, leak=1.5):
    """Draw hinges whose mean follows each target's own embeddings and the class; no image does.

    Returns:
        Arguments of `quantile_embeddings`, pixel features of examples and population, and members.
    """
    rng = np.random.default_rng(seed)
    total = examples + population
    labels = rng.integers(4, size=total)
    own = rng.normal(size=(targets, 6, total)).astype(np.float32)
    noise = rng.normal(size=(targets, queries, total))
    members = rng.random((targets, examples)) < 0.5
    noise[:, :, :examples] += leak * members[:, None]
    mu = 2 * own[:, 0] - 3 * own[:, 1] + np.array([0, 2, 4, 6])[labels]
    sigma = np.exp(0.5 * own[:, 2])
    hinge = torch.from_numpy(mu[:, None] + sigma[:, None] * noise)
    x, y, pixels = (torch.from_numpy(a) for a in (own, labels, rng.normal(size=(total, 20))))
    cut = [examples, population]
    (h, p), (e, q), (k, c) = (tensor.split(cut, -1) for tensor in (hinge, x, y))
    return (h, p, e, q, k, c), pixels.split(cut), torch.from_numpy(members)


def test_quantile_embeddings_match_scikit_learn():
    """One regression per target, on its own embeddings and the one-hot classes."""
    arguments, _, _ = embedded(queries=2, population=101, examples=50)
    target, population, own, others, labels, classes = (a.numpy() for a in arguments)
    expected = np.zeros((2, 50))
    for row in range(2):
        new, x = (
            np.concatenate([np.eye(4)[y], e[row].T], 1)
            for y, e in ((labels, own), (classes, others))
        )
        for t, y in zip(target[row], population[row], strict=True):
            residual = np.zeros(len(y))
            for rest, fold in KFold(5, shuffle=True, random_state=0).split(x):
                residual[fold] = np.abs(y[fold] - scikit_learn(x[rest], y[rest], x[fold]))
            log = np.log(np.maximum(residual, 1e-3 * residual.mean()))
            sigma = np.exp(scikit_learn(x, log + (np.euler_gamma + np.log(2)) / 2, new))
            expected[row] += (t - scikit_learn(x, y, new)) / sigma / 2
    # the bound of the other regression: eigenvalues from 10 to at most 101 x 10, so fewer digits
    # are lost than there
    np.testing.assert_allclose(quantile_embeddings(*arguments), expected, rtol=1e-9, atol=1e-9)


def test_quantile_embeddings_see_a_difficulty_that_pixels_do_not_show():
    arguments, pixels, members = embedded()
    best = norm.cdf(1.5 / np.sqrt(2))
    blind = quantile_regression(*arguments[:2], *pixels)
    for row, scores in enumerate(quantile_embeddings(*arguments)):
        area = auc(roc(scores, members[row])).item()
        assert area == pytest.approx(best, abs=0.035)  # four standard errors of 1,000 a side
        assert area > auc(roc(blind[row], members[row])).item() + 0.15


def test_quantile_embeddings_of_non_members_are_standard_normal():
    arguments, _, members = embedded(leak=0.0)
    scores = quantile_embeddings(*arguments)
    assert scores.mean().item() == pytest.approx(0, abs=0.06)
    assert scores.std().item() == pytest.approx(1, abs=0.06)
    assert auc(roc(scores[0], members[0])).item() == pytest.approx(0.5, abs=0.04)


def test_quantile_embeddings_score_a_target_as_if_alone_to_the_last_bit():
    arguments, _, _ = embedded(targets=3, queries=2, population=300, examples=100)
    together = quantile_embeddings(*arguments)
    for row in range(3):
        alone = quantile_embeddings(*(a[[row]] for a in arguments[:4]), *arguments[4:])
        assert torch.equal(alone[0], together[row])
    order = torch.randperm(100)
    shuffled = [a[..., order] if i in (0, 2, 4) else a for i, a in enumerate(arguments)]
    assert torch.equal(quantile_embeddings(*shuffled), together[:, order])


@pytest.mark.parametrize("part", [2, 3], ids=["examples", "population"])
def test_a_target_with_broken_embeddings_gets_no_score(part):
    arguments, _, _ = embedded(targets=3, population=300, examples=100)
    whole = quantile_embeddings(*arguments)
    arguments[part][1, 2, 7] = torch.inf
    scores = quantile_embeddings(*arguments)
    assert scores[1].isnan().all()
    assert torch.equal(scores[[0, 2]], whole[[0, 2]])


def test_quantile_embeddings_need_a_population_of_20():
    arguments, _, _ = embedded(population=19, examples=30)
    with pytest.raises(ValueError, match=r"population of 20 or more, got 19\. Hold out"):
        quantile_embeddings(*arguments)
