"""Signals of many models, in memory or on disk, a slice of examples at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

NUMBERS = 1 << 22  # in a slice of all models; in float64 it and its temporaries take 0.2 GB


@runtime_checkable
class Sliced(Protocol):
    """A tensor `[..., examples]`, or what gives one when examples are sliced: `some[..., 0:9]`.

    A sequence of positions chooses among the first axis, and gives another of the kind.
    """

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> Any: ...  # noqa: ANN401
    def __getitem__(self, index: Any, /) -> Any: ...  # noqa: ANN401


def slices_of(some: Sliced) -> Iterator[slice]:
    """Slices of examples that cover `some`, each small enough to compute with."""
    *others, examples = some.shape
    size = NUMBERS
    for count in others:
        size //= max(1, count)
    size = max(1, size)
    for start in range(0, examples, size):
        yield slice(start, min(start + size, examples))


def sort_models(values: Float[Tensor, "models *examples"]) -> Float[Tensor, "models *examples"]:
    """Sort along the first axis, NaN last; by NumPy, which takes a ninth of `torch.sort`'s time."""
    return torch.from_numpy(np.sort(values.numpy(), axis=0))


class Stacked:
    """Several signals of the same models beside each other, along a second axis."""

    def __init__(self, parts: Sequence[Sliced]) -> None:
        self.parts, self.dtype = parts, parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        models, *others = self.parts[0].shape
        return models, len(self.parts), *others

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        found = [part[index] for part in self.parts]
        return Stacked(found) if isinstance(index, list) else torch.stack(found, 1)


class Chosen:
    """Some of the examples, at positions in ascending order."""

    def __init__(self, some: Sliced, positions: Int64[Tensor, " chosen"]) -> None:
        self.some, self.positions, self.dtype = some, positions, some.dtype
        self.shape = (*some.shape[:-1], len(positions))

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, list):
            return Chosen(self.some[index], self.positions)
        positions = self.positions[index[1]]
        if not len(positions):
            return self.some[..., :0]
        first, last = int(positions[0]), int(positions[-1])
        return self.some[..., first : last + 1][..., positions - first]
