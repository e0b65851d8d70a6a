"""Signals of many models, kept on disk and read one slice of examples at a time."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class SavedSignal:
    """One signal of several models, kept on disk.

    It is sliced like a tensor `[models, queries, examples]`: `signal[[0, 2]]` selects two models
    and reads nothing, `signal[..., 0:9]` reads nine examples into a tensor.

    Args:
        paths: one file per model.
        key: name of the signal in the files.

    Raises:
        ValueError: on reading, a file that is damaged or lacks this signal.
    """

    dtype = torch.float32

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self.paths, self.key = paths, key
        self._layouts: dict[Path, _Layout] = {}  # of files that were checked, shared by selections

    @cached_property
    def shape(self) -> tuple[int, ...]:
        first = next((path for path in self.paths if path.exists()), self.paths[0])
        return len(self.paths), *self._layout(first).shape  # the others may never be read

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, list):
            models = SavedSignal([self.paths[position] for position in index], self.key)
            models._layouts = self._layouts
            return models
        *models_queries, examples = self.shape
        chosen = range(examples)[index[-1]]
        starts, dtype = self._offsets
        signals = torch.empty(*models_queries, len(chosen), dtype=dtype)
        if not signals.numel():
            return signals
        first, step = chosen.start * dtype.itemsize, examples * dtype.itemsize
        for path, start, signal in zip(self.paths, starts, signals.numpy(), strict=True):
            # memory-mapping took three times as long, and 0.3 GB for 256 files
            with path.open("rb", buffering=0) as file:
                rows = signal.reshape(-1, len(chosen))
                for row, offset in zip(rows, count(start + first, step)):
                    if os.preadv(file.fileno(), [row], offset) != row.nbytes:
                        raise ValueError(f"{path} ended early. Was it changed? Run this again.")
        return signals

    @cached_property
    def _offsets(self) -> tuple[list[int], torch.dtype]:
        """The byte at which the signal starts in each file, and its type; files are checked."""
        layouts = [self._layout(path) for path in self.paths]
        kinds = {(*layout.shape, layout.dtype) for layout in layouts}
        if len(kinds) > 1:
            raise ValueError(f"`{self.key}` must have one shape in all models, got {kinds}.")
        dtype = {"F32": torch.float32, "BOOL": torch.bool}[layouts[0].dtype]
        return [layout.start for layout in layouts], dtype

    def _layout(self, path: Path) -> "_Layout":
        """Read the header of one file, once for all selections of models."""
        if path not in self._layouts:
            with _opened(path) as file:
                signal = file.get_slice(self.key)
                shape, dtype = tuple(signal.get_shape()), signal.get_dtype()
            with path.open("rb") as raw:  # the length of a JSON header, the header, the tensors
                size = int.from_bytes(raw.read(8), "little")
                start = 8 + size + json.loads(raw.read(size))[self.key]["data_offsets"][0]
            self._layouts[path] = _Layout(start, shape, dtype)
        return self._layouts[path]


class _Layout(NamedTuple):
    """Where a signal starts in a file, in bytes, and what it is."""

    start: int
    shape: tuple[int, ...]
    dtype: str


def load_signals(paths: Sequence[Path], key: str) -> Tensor:
    """Stack one signal of several models along a first axis `models`.

    Raises:
        ValueError: a file is damaged.
    """
    signals: Tensor = SavedSignal(paths, key)[..., :]
    return signals


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole signals file ({error}). Run train.py again with `--repair`."
        ) from error
