import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import Digits


def test_digits_are_scikit_learns():
    data = Digits(pool_size=500)
    data.setup("fit")
    assert data.pool.images.shape == (500, 1, 8, 8)
    assert data.test.images.shape == (1297, 1, 8, 8)
    source = load_digits()
    rows = torch.cat([data.pool.images, data.test.images]).flatten(1).double() * 16 / 255
    labels = torch.cat([data.pool.labels, data.test.labels])
    served = sorted(zip(rows.round().tolist(), labels.tolist(), strict=True))
    assert served == sorted(zip(source.data.tolist(), source.target.tolist(), strict=True))


def test_scaling_is_that_of_all_images():
    data = Digits()
    data.setup("fit")
    pixels = torch.cat([data.pool.images, data.test.images]).double() / 255
    assert data.mean == (pytest.approx(pixels.mean().item(), abs=5e-5),)
    assert data.std == (pytest.approx(pixels.std(correction=0).item(), abs=5e-5),)


@pytest.mark.parametrize(
    ("size", "message"),
    [(1797, "got 1797 and 0. Leave some out of the pool"), (1798, "must be 2 to 1797.*got 1798")],
)
def test_a_pool_of_all_digits_leaves_no_test_split(size, message):
    with pytest.raises(ValueError, match=message):
        Digits(pool_size=size).setup("fit")
