"""Random ReLU features of digits, whose rows come in five tasks of two classes."""

from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import one_hot

GAMMA = 0.1


class Rows(NamedTuple):
    """Rows of all tasks, and which of them are learnt."""

    features: Tensor
    other: Tensor  # the same projection through tanh
    targets: Tensor
    task: Tensor
    members: Tensor


@pytest.fixture
def rows():
    draws = torch.Generator().manual_seed(1)
    pixels, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=draws)[:500]
    pixels, labels = pixels[order] / 16 - 0.3, labels[order]
    bound = torch.rand(64, 150, generator=draws, dtype=torch.float64) * 2 - 1
    projected = pixels @ bound
    members = torch.rand(500, generator=draws) < 0.5
    return Rows(
        projected.relu(), projected.tanh(), one_hot(labels, 10).double(), labels // 2, members
    )
