"""The head of an analytic learner: random features, and a linear layer that is solved for."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from lightning_modules.float32 import tf32

UNSEEN = -100.0  # output of a class that no task has had: a zero would win where all others lose


class Rows(NamedTuple):
    """What a regression learns of some examples.

    Attributes:
        features: random features through ReLU.
        other: the same through tanh, for a compensation stream; None without one.
    """

    features: Float64[Tensor, "examples columns"]
    other: Float64[Tensor, "examples columns"] | None

    def take(self, chosen: Tensor) -> "Rows":
        """Some of the rows."""
        other = None if self.other is None else self.other[chosen]
        return Rows(self.features[chosen], other)

    def joined(self) -> Float64[Tensor, "examples inputs"]:
        """What the linear layer is given."""
        return self.features if self.other is None else torch.cat([self.features, self.other], 1)


class RidgeHead(nn.Module):
    """Random features that are drawn once, and the linear layer that a ridge regression fills.

    Args:
        features: length of a row of the backbone's features.
        columns: number of random features.
        num_classes: number of classes of all tasks.
        compensated: whether the layer reads the random features through tanh, too.
    """

    def __init__(self, features: int, columns: int, num_classes: int, compensated: bool) -> None:
        super().__init__()
        self.buffer = nn.Linear(features, columns, bias=False)
        self.output = nn.Linear((1 + compensated) * columns, num_classes)
        self.compensated = compensated
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, UNSEEN)
        self.buffer.requires_grad_(False)

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Regression scores, and a large negative number for classes that no task has had."""
        logits: Tensor = self.output(self._expand(self.buffer(features)))
        return logits

    @torch.no_grad()
    @tf32(False)
    def rows(self, features: Float[Tensor, "batch features"]) -> Rows:
        """The random features in float64, which do not depend on the size of the batch."""
        projected = features.double() @ self.buffer.weight.double().T
        return Rows(projected.relu(), projected.tanh() if self.compensated else None)

    @torch.no_grad()
    def fill(self, weight: Float64[Tensor, "inputs seen"], classes: list[int]) -> None:
        """Take the weight of a regression.

        Args:
            weight: one column for each class that tasks have had.
            classes: those classes, in the order of the columns.
        """
        self.output.weight[classes] = weight.T.to(self.output.weight)
        self.output.bias[classes] = 0

    def _expand(self, projected: Tensor) -> Tensor:
        active = projected.relu()
        return torch.cat([active, projected.tanh()], 1) if self.compensated else active
