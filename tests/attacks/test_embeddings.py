"""Projections of embeddings, against scikit-learn's principal components."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from attacks.embeddings import COMPONENTS, fit_projection


@pytest.fixture
def population(rng):
    """Embeddings off the origin, each direction a third narrower than the one before."""
    widths = 0.67 ** torch.arange(12)
    return 3 + torch.randn(400, 12, generator=rng, dtype=torch.float64) * widths


def test_components_are_principal_components_with_a_positive_largest_entry(rng, population):
    others = torch.randn(50, 12, generator=rng, dtype=torch.float64)
    pca = PCA(5).fit(population.numpy())
    signs = np.sign(pca.components_[range(5), np.abs(pca.components_).argmax(1)])
    projection = fit_projection(population, 5)
    # both in float64: off by 12 x 2^-53 of the largest variance, 1e3 times the smallest gap
    np.testing.assert_allclose(
        projection.directions.T, signs[:, None] * pca.components_, atol=1e-11
    )
    for rows in (population, others):
        expected = signs * pca.transform(rows.numpy())
        np.testing.assert_allclose(projection.apply(rows).T, expected, rtol=2e-7, atol=1e-7)
        assert projection.apply(rows).dtype == torch.float32


def test_the_same_embeddings_give_the_same_projection(population):
    first, second = fit_projection(population), fit_projection(population.clone())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_there_are_at_most_32_components(rng, population):
    assert fit_projection(population).directions.shape == (12, 12)
    wide = torch.randn(60, 100, generator=rng)
    assert fit_projection(wide).directions.shape == (100, COMPONENTS)
    assert COMPONENTS == 32


@pytest.mark.parametrize("dead", [range(12), range(3, 12)], ids=["all", "some"])
def test_inputs_without_width_give_zeros_and_no_noise(population, dead):
    """Units that are never active differ by rounding at most; standardized, it would be noise."""
    population[:, list(dead)] = 0.1 + 1e-9 * population[:, list(dead)]
    components = fit_projection(population).apply(population)
    alive = (components != 0).any(1)
    assert alive.tolist() == [True] * (12 - len(dead)) + [False] * len(dead)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_network_has_no_components(population, value):
    population[7, 3] = value
    assert fit_projection(population, 4).apply(torch.ones(2, 12)).isnan().all()
