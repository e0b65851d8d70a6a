"""DS-AL's two streams: a ridge regression, and a second that learns what the first leaves over.

The second, the compensation stream, sees the same projection through tanh instead of ReLU. Its
targets are the residuals of the first, zero in columns of classes that were known before the task.
The published update takes residuals after each mini-batch, so its weights depend on the batch size:
on 512 random features of digits, batches of 64 changed them by 40%, and batches of 16 by 52%.
`finish_task` takes the residuals of the whole task, from sums that need no second pass;
`update_published` is the published update.

Source: Zhuang et al. 2024, arXiv:2403.17503 (DS-AL).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from continual.ridge import Gram, Ridge, grow, start_ridge, update_ridge


class Streams(NamedTuple):
    """Both streams after some rows.

    Attributes:
        main: the regression on ReLU features.
        inverse: R of the compensation stream, on tanh features.
        moment: tanh features times the residuals that they were learnt with, summed over rows.
        pending: over the rows of a task that is not finished: tanh features times ReLU features,
            and tanh features times targets.
    """

    main: Ridge
    inverse: Float64[Tensor, "columns columns"]
    moment: Float64[Tensor, "columns classes"]
    pending: Gram

    @property
    def compensation(self) -> Float64[Tensor, "columns classes"]:
        """The compensation stream's weight."""
        return self.inverse @ self.moment


def start_streams(columns: int, gamma: float, device: torch.device | str = "cpu") -> Streams:
    """Both streams before any row.

    Raises:
        ValueError: gamma is not positive.
    """
    main = start_ridge(columns, gamma, device)
    return Streams(main, main.inverse, main.weight, _nothing(main))


def update_streams(
    streams: Streams,
    features: Float64[Tensor, "examples columns"],
    other: Float64[Tensor, "examples columns"],
    targets: Float64[Tensor, "examples classes"],
) -> Streams:
    """Learn some rows of a task; `finish_task` is needed after its last.

    Args:
        streams: both streams so far.
        features: the rows through ReLU.
        other: the rows through tanh.
        targets: as for `update_ridge`.
    """
    pending = Gram(
        streams.pending.gram + other.T @ features,
        grow(streams.pending.moment, targets.shape[1]) + other.T @ targets,
    )
    return Streams(
        update_ridge(streams.main, features, targets),
        _learn_inverse(streams.inverse, other),
        streams.moment,
        pending,
    )


def finish_task(streams: Streams, known: int) -> Streams:
    """Let the compensation stream learn what the main one leaves over of a task's rows.

    Args:
        streams: both streams after the task's last row.
        known: number of classes before the task.
    """
    main, inverse, moment, pending = streams
    left = pending.moment - pending.gram @ main.weight
    left[:, :known] = 0
    return Streams(main, inverse, grow(moment, left.shape[1]) + left, _nothing(main))


def update_published(
    streams: Streams,
    features: Float64[Tensor, "examples columns"],
    other: Float64[Tensor, "examples columns"],
    targets: Float64[Tensor, "examples classes"],
    known: int,
) -> Streams:
    """Learn some rows by the published update, whose compensation depends on the batches.

    Args:
        streams: both streams so far.
        features: the rows through ReLU.
        other: the rows through tanh.
        targets: as for `update_ridge`.
        known: number of classes before the task.
    """
    main = update_ridge(streams.main, features, targets)
    left = targets - features @ main.weight
    left[:, :known] = 0
    moment = grow(streams.moment, left.shape[1]) + other.T @ left
    return Streams(main, _learn_inverse(streams.inverse, other), moment, _nothing(main))


def _learn_inverse(inverse: Tensor, rows: Tensor) -> Tensor:
    no_targets = rows.new_zeros(len(rows), 0)
    return update_ridge(
        Ridge(inverse, inverse.new_zeros(len(inverse), 0)), rows, no_targets
    ).inverse


def _nothing(ridge: Ridge) -> Gram:
    """Sums over no rows, of as many columns and classes."""
    return Gram(torch.zeros_like(ridge.inverse), torch.zeros_like(ridge.weight))
