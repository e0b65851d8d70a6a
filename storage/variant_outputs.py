"""Whole output vectors of quantized learners of tasks, read from disk one variant at a time."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.names import ModelName
from storage.run_folder import RunFolder

KEY = "outputs"  # in a file of signals


class SavedOutputs(Mapping[str, Tensor]):
    """Outputs `[models, examples, classes]` of each variant; NaN in the rows of unused models.

    Args:
        run: the experiment's folder.
        used: models that are audited or attack.
        variants: variants of which each of these models has outputs, see `recorded_outputs`.
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

    def __getitem__(self, variant: str) -> Tensor:
        """Read one variant.

        Raises:
            KeyError: not all models have its outputs.
            ValueError: a file has outputs that are not finite.
        """
        if variant not in self.variants:
            raise KeyError(variant)
        stacked: Tensor | None = None
        for row, name in enumerate(self.names):
            if name not in self.used:
                continue
            path = self.run.signals(name, variant)
            with safe_open(path, framework="pt") as file:
                outputs = file.get_tensor(KEY)
            if broken := int((~outputs.isfinite()).sum()):
                raise ValueError(
                    f"`{KEY}` in {path} must be finite, got {broken} numbers that are not. Train "
                    "that model again by `train.py --fleet.retrain_failed true`."
                )
            if stacked is None:
                stacked = torch.full((len(self.names), *outputs.shape), torch.nan)
            stacked[row] = outputs
        return torch.empty(0) if stacked is None else stacked


def recorded_outputs(
    run: RunFolder, used: Collection[ModelName], variants: Sequence[str]
) -> list[str]:
    """Variants of which each used model has outputs; folders from before them have none.

    Raises:
        ValueError: a file is damaged.
    """
    return [v for v in variants if all(_has_outputs(run, name, v) for name in used)]


def _has_outputs(run: RunFolder, name: ModelName, variant: str) -> bool:
    path = run.signals(name, variant)
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in file.keys()  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole signals file ({error}). Run train.py again with `--repair`."
        ) from error
