"""Signals of many models, in memory or on disk, read one slice of examples at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

NUMBERS = 1 << 22  # per slice of all models; in float64, with temporaries, 0.2 GB


@runtime_checkable
class Sliced(Protocol):
    """A tensor `[..., examples]`, or an object whose slices are tensors: `signal[..., 0:9]`.

    A list of positions selects along the first axis and gives another `Sliced`.
    """

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> Any: ...  # noqa: ANN401
    def __getitem__(self, index: Any, /) -> Any: ...  # noqa: ANN401


def slices_of(signal: Sliced) -> Iterator[slice]:
    """Slices that cover all examples of `signal`, each small enough to compute with."""
    *sizes, examples = signal.shape
    width = NUMBERS
    for size in sizes:
        width //= max(1, size)
    width = max(1, width)
    for start in range(0, examples, width):
        yield slice(start, min(start + width, examples))


def sort_models(values: Float[Tensor, "models *examples"]) -> Float[Tensor, "models *examples"]:
    """Sort along the first axis, NaN last. NumPy takes a ninth of the time of `torch.sort`."""
    return torch.from_numpy(np.sort(values.numpy(), axis=0))


class Stacked:
    """Several signals of the same models, stacked along a second axis."""

    def __init__(self, parts: Sequence[Sliced]) -> None:
        self.parts, self.dtype = parts, parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        models, *sizes = self.parts[0].shape
        return models, len(self.parts), *sizes

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        parts = [part[index] for part in self.parts]
        return Stacked(parts) if isinstance(index, list) else torch.stack(parts, 1)


class Chosen:
    """A signal on a subset of its examples, at positions in ascending order."""

    def __init__(self, signal: Sliced, positions: Int64[Tensor, " chosen"]) -> None:
        self.signal, self.positions, self.dtype = signal, positions, signal.dtype
        self.shape = (*signal.shape[:-1], len(positions))

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, list):
            return Chosen(self.signal[index], self.positions)
        positions = self.positions[index[1]]
        if not len(positions):
            return self.signal[..., :0]
        first, last = int(positions[0]), int(positions[-1])
        return self.signal[..., first : last + 1][..., positions - first]


class OfSome:
    """A signal that is known of some models only, by their position; only those can be read.

    Args:
        by_model: position -> signal, each of one shape.
        models: number of models.
    """

    def __init__(self, by_model: Mapping[int, Tensor], models: int) -> None:
        self.by_model, self.models = by_model, models
        signal = next(iter(by_model.values()), torch.empty(0, 0))
        self.shape, self.dtype = (models, *signal.shape), signal.dtype

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, list):
            known = {
                new: self.by_model[old] for new, old in enumerate(index) if old in self.by_model
            }
            return OfSome(known, len(index))
        return torch.stack([self.by_model[model][index] for model in range(self.models)])
