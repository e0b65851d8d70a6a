"""Normal densities of vectors, against SciPy's and slow loops."""

import pytest
import torch
from scipy.stats import multivariate_normal

from attacks.continual.vector_fit import fit_vectors


@pytest.fixture
def samples(rng):
    """Twenty models' vectors of ten examples of two classes, and which of them count."""
    mixing = torch.randn(3, 3, generator=rng)
    vectors = torch.randn(20, 10, 3, generator=rng) @ mixing + torch.arange(10)[:, None]
    present = torch.rand(20, 10, generator=rng) < 0.6
    return vectors, present, torch.tensor([0] * 6 + [4] * 4)


def test_densities_are_those_of_the_covariance_worked_out_by_hand(samples, rng):
    vectors, present, labels = samples
    fit, target = fit_vectors(*samples), torch.randn(10, 3, generator=rng)
    found = fit.log_density(target)
    for label in (0, 4):
        own = [e for e in range(10) if labels[e] == label]
        means = {e: vectors[present[:, e], e].double().mean(0) for e in own}
        rows = [vectors[s, e].double() - means[e] for e in own for s in range(20) if present[s, e]]
        freedom = len(rows) - len(own)
        plain = sum(torch.outer(row, row) for row in rows) / freedom
        shrunk = plain * freedom / (freedom + 3)
        shrunk += torch.diag(plain.diagonal()) * 3 / (freedom + 3)
        for e in own:
            around = vectors[present[:, e], e].double() - means[e]
            count = len(around)
            squares = (around @ shrunk.inverse() * around).sum() / 3
            scale = (squares + 4) / (count - 1 + 4) * (1 + 1 / count)
            density = multivariate_normal(means[e], scale * shrunk).logpdf(target[e])
            assert found[e].item() == pytest.approx(density, rel=1e-6)


def test_columns_that_never_vary_are_harmless(samples):
    vectors, present, labels = samples
    constant = torch.cat([vectors, torch.full((20, 10, 1), 2.0)], -1)
    assert fit_vectors(constant, present, labels).log_density(constant[0]).isfinite().all()
    equal = torch.ones(4, 2, 3)
    fit = fit_vectors(equal, torch.ones(4, 2).bool(), labels[:2])
    assert fit.log_density(equal).isfinite().all()


def test_one_sample_has_no_spread(samples):
    vectors, present, labels = samples
    present[:, 2] = torch.arange(20) == 3
    with pytest.raises(ValueError, match="needs 2 models on each side of an example, got 1"):
        fit_vectors(vectors, present, labels)
