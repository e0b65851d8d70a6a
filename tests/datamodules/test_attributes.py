"""Attributes of tables: their values, and examples with each of them."""

import numpy as np
import pytest
import torch

from datamodules import Arrays, Digits
from datamodules.attributes import read_attribute, vary


@pytest.fixture
def table(tmp_path):
    """A table of 30 examples in order: a measurement, an attribute of 3 values, and a constant."""
    rng = np.random.default_rng(0)
    features = np.stack([rng.normal(size=30), rng.choice([-1, 0.5, 4], 30), np.ones(30)], 1)
    splits = {
        "x": features,
        "y": np.arange(30) % 2,
        "x_test": features[:5],
        "y_test": [0, 1] * 2 + [0],
    }
    np.savez(tmp_path / "table.npz", **splits)
    data = Arrays(tmp_path / "table.npz")
    data.setup("fit")
    return data, torch.from_numpy(features).float()


def test_values_and_truth_rebuild_the_column(table):
    data, features = table
    attribute = read_attribute(data, 1)
    assert attribute.values.tolist() == [-1, 0.5, 4]
    assert torch.equal(attribute.values[attribute.truth], features[:, 1])
    assert torch.equal(attribute.others, features[:, [0, 2]])


def test_only_the_attribute_changes_and_its_own_value_changes_nothing(table):
    data, features = table
    attribute, before = read_attribute(data, 1), data.pool.images.clone()
    (batch,) = data.pool_batches("identity")
    versions = list(vary(data, attribute, batch))
    assert len(versions) == 3
    for place, (value, version) in enumerate(zip(attribute.values, versions, strict=True)):
        own = attribute.truth == place
        assert torch.equal(version.images[own], batch.images[own])  # to the bit
        expected = features.clone()
        expected[:, 1] = value
        expected = (expected - torch.tensor(data.mean)) / torch.tensor(data.std)
        torch.testing.assert_close(version.images, expected)
        assert torch.equal(version.labels, batch.labels)
    assert torch.equal(data.pool.images, before)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (3, r"must be 0 to 2, one of the columns, got 3"),
        (-1, r"must be 0 to 2, one of the columns, got -1"),
        (0, r"Column 0 .* must have 2 to 20 different values, got 30.*numpy.digitize"),
        (2, r"Column 2 .* must have 2 to 20 different values, got 1"),
    ],
)
def test_a_column_that_cannot_be_guessed_is_refused(table, column, message):
    with pytest.raises(ValueError, match=message):
        read_attribute(table[0], column)


def test_images_have_no_attributes():
    data = Digits(pool_size=20)
    data.setup("fit")
    with pytest.raises(
        ValueError, match=r"names a column of a table.*got examples of shape \[1, 8"
    ):
        read_attribute(data, 0)
