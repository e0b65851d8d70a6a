"""Whole output vectors of quantized learners of tasks, read from disk one variant at a time."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attacks.tasks import RoundedWorlds
from storage.names import ModelName
from storage.run_folder import RunFolder

KEY = "outputs"  # in a file of signals
SIDES = "world_inside", "world_outside"  # in such files of audited models


Recorded = TypeVar("Recorded")


class _OfVariants(Mapping[str, Recorded], ABC):
    """What was recorded of some models in each variant.

    Args:
        run: the experiment's folder.
        used: models that are read.
        variants: variants of which each of these models has it, see `recorded_outputs`.
    """

    def __init__(
        self, run: RunFolder, used: Collection[ModelName], variants: Sequence[str]
    ) -> None:
        self.run, self.used, self.variants = run, used, variants
        self.names = run.read().names

    def __len__(self) -> int:
        return len(self.variants)

    def __iter__(self) -> Iterator[str]:
        return iter(self.variants)

    def __getitem__(self, variant: str) -> Recorded:
        """Read one variant.

        Raises:
            KeyError: not all models have it.
            ValueError: a file has numbers that are not finite.
        """
        if variant not in self.variants:
            raise KeyError(variant)
        rows = (row for row, name in enumerate(self.names) if name in self.used)
        return self._read({row: self.run.signals(self.names[row], variant) for row in rows})

    @abstractmethod
    def _read(self, paths: Mapping[int, Path]) -> Recorded:
        """Read files of signals, by the models' row."""


class SavedOutputs(_OfVariants[Tensor]):
    """Outputs `[models, examples, classes]` of each variant; NaN in the rows of unused models."""

    def _read(self, paths: Mapping[int, Path]) -> Tensor:
        stacked: Tensor | None = None
        for row, path in paths.items():
            outputs = _read(path, KEY)
            if stacked is None:
                stacked = torch.full((len(self.names), *outputs.shape), torch.nan)
            stacked[row] = outputs
        return torch.empty(0) if stacked is None else stacked


class SavedWorlds(_OfVariants[Mapping[int, RoundedWorlds]]):
    """Worlds of audited models that were rounded as a variant was, by the models' row."""

    def _read(self, paths: Mapping[int, Path]) -> Mapping[int, RoundedWorlds]:
        return {
            row: RoundedWorlds(*(_read(path, side) for side in SIDES))
            for row, path in paths.items()
        }


def recorded_outputs(
    run: RunFolder, used: Collection[ModelName], variants: Sequence[str], key: str = KEY
) -> list[str]:
    """Variants of which each used model has outputs; folders from before them have none.

    Args:
        run: the experiment's folder.
        used: models that are audited or attack.
        variants: which of them are looked at.
        key: of the outputs in a file of signals.

    Raises:
        ValueError: a file is damaged.
    """
    return [v for v in variants if all(_has(run.signals(name, v), key) for name in used)]


def _has(path: Path, key: str) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return key in file.keys()  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole signals file ({error}). Run train.py again with `--repair`."
        ) from error


def _read(path: Path, key: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        outputs: Tensor = file.get_tensor(key)
    if broken := int((~outputs.isfinite()).sum()):
        raise ValueError(
            f"`{key}` in {path} must be finite, got {broken} numbers that are not. Train that "
            "model again by `train.py --fleet.retrain_failed true`."
        )
    return outputs
