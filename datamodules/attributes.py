"""An attribute of a table: a column with few values, which an attacker tries in turn."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.views import normalise

MOST = 20  # values


class Attribute(NamedTuple):
    """A column of the pool.

    Attributes:
        column: its place among the features, from 0.
        values: the values that it has, ascending.
        truth: position of each example's own value among them.
        others: the other columns.
    """

    column: int
    values: Float[Tensor, " values"]
    truth: Int64[Tensor, " examples"]
    others: Float[Tensor, "examples features"]


def read_attribute(data: ImageDataModule, column: int) -> Attribute:
    """Find the values of a column in the pool.

    Raises:
        ValueError: the data is no table, has no such column, or the column is constant or has too
            many values.
    """
    features = data.pool.images
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            "`federated.attribute` names a column of a table, `--data Arrays` of [examples, "
            f"features], got examples of shape {list(features.shape[1:])}. Leave it out."
        )
    if not 0 <= column < features.shape[1]:
        raise ValueError(
            f"`federated.attribute` must be 0 to {features.shape[1] - 1}, one of the columns, got "
            f"{column}."
        )
    features = features.cpu()
    values, truth = torch.unique(features[:, column], return_inverse=True)
    if not 2 <= len(values) <= MOST:
        raise ValueError(
            f"Column {column} (`federated.attribute`) must have 2 to {MOST} different values, got "
            f"{len(values)}. Take another, or replace a measurement by its terciles, for example "
            "by `numpy.digitize(x, numpy.quantile(x, [1 / 3, 2 / 3]))`."
        )
    others = torch.cat([features[:, :column], features[:, column + 1 :]], 1)
    return Attribute(column, values, truth, others)


def vary(data: ImageDataModule, attribute: Attribute, batch: Batch) -> Iterator[Batch]:
    """A batch of the pool with each value in turn in the place of the examples' own."""
    for value in attribute.values.tolist():
        rows = data.pool.take(batch.indices).images.clone()
        rows[:, attribute.column] = value
        changed = normalise(rows, data.mean, data.std).to(batch.images.device)
        yield batch._replace(images=changed)
