"""Signals of many models, left in their files and read a slice of examples at a time."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class SavedSignal:
    """One signal of several models, left in their files.

    Like a tensor `[models, queries, examples]` of which a slice of examples is read at a time:
    `signal[[0, 2]]` are two of the models, still on disk, and `signal[..., 0:9]` is a tensor.

    Args:
        paths: one file per model.
        key: name of the signal in the files.

    Raises:
        ValueError: on reading, a damaged file, or one without this signal.
    """

    dtype = torch.float32

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self.paths, self.key = paths, key

    @cached_property
    def shape(self) -> tuple[int, ...]:
        first = next((path for path in self.paths if path.exists()), self.paths[0])
        with _opened(first) as file:  # others may be unfinished, and are then not read
            return len(self.paths), *file.get_slice(self.key).get_shape()

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, list):
            return SavedSignal([self.paths[position] for position in index], self.key)
        *others, examples = self.shape
        chosen = range(examples)[index[-1]]
        starts, dtype = self._places
        read = torch.empty(*others, len(chosen), dtype=dtype)
        if not read.numel():
            return read
        first, step = chosen.start * dtype.itemsize, examples * dtype.itemsize
        for path, start, signal in zip(self.paths, starts, read.numpy(), strict=True):
            # not mapped: that took three times as long, and 0.3 GB for 256 files
            with path.open("rb", buffering=0) as file:
                number = file.fileno()
                for row, at in zip(signal.reshape(-1, len(chosen)), count(start + first, step)):
                    if os.preadv(number, [row], at) != row.nbytes:
                        raise ValueError(f"{path} ended early. Was it changed? Run this again.")
        return read

    @cached_property
    def _places(self) -> tuple[list[int], torch.dtype]:
        """At which byte of each file the signal starts, and its type; files are checked here."""
        starts, kinds = [], set()
        for path in self.paths:
            with _opened(path) as file:
                signal = file.get_slice(self.key)
                kinds.add((*signal.get_shape(), signal.get_dtype()))
            with path.open("rb") as raw:  # a length, and so many bytes of JSON, then the tensors
                size = int.from_bytes(raw.read(8), "little")
                starts.append(8 + size + json.loads(raw.read(size))[self.key]["data_offsets"][0])
        if len(kinds) > 1:
            raise ValueError(f"`{self.key}` must have one shape in all models, got {kinds}.")
        return starts, {"F32": torch.float32, "BOOL": torch.bool}[kinds.pop()[-1]]


def load_signals(paths: Sequence[Path], key: str) -> Tensor:
    """Stack one signal of several models, along a first axis `models`.

    Raises:
        ValueError: a file is damaged.
    """
    read: Tensor = SavedSignal(paths, key)[..., :]
    return read


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole signals file ({error}). Run train.py again with `--repair`."
        ) from error
