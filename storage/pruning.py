"""Facts about pruned models, from the records of their training."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.game import FULL
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder
from storage.weights import load_kept


class LayerWidth(NamedTuple):
    """Number of outputs of a layer, dense and in the pruned models."""

    layer: str
    dense: int
    fewest: int
    mean: float
    most: int


class PruningMeans(NamedTuple):
    """How models were pruned.

    Attributes:
        method: how channels were selected.
        remove: share of the multiply-accumulates that was to be removed.
        models: number of models.
        first: epoch after which channels were first selected.
        cut_after: epoch after which each model was cut.
        stable: number of models whose channels were stable then; None where that was not asked.
        stability: of each model, the Jaccard index of the channels kept after an epoch and after
            the one before, from the second selection on.
        macs: multiply-accumulates per image, dense and pruned on average.
        parameters: the same of parameters.
        accuracy: test accuracy before the cut, after it and at the end, on average.
        widths: outputs of each layer, in the network's order.
    """

    method: str
    remove: float
    models: int
    first: int
    cut_after: list[int]
    stable: int | None
    stability: list[list[float]]
    macs: list[float]
    parameters: list[float]
    accuracy: list[float]
    widths: list[LayerWidth]

    def describe(self) -> str:
        """When models were cut, and why then, in a sentence."""
        epochs = sorted({min(self.cut_after), max(self.cut_after)})
        when = f"after epoch {' to '.join(map(str, epochs))}"
        if epochs == [0]:
            when = "before training"
        sentence = f"Pruning by {self.method} cut channels {when}"
        if self.stable is None:
            return f"{sentence}."
        late = self.models - self.stable
        if not late:
            return f"{sentence}, when they had become stable in every model."
        return (
            f"{sentence}: in {self.stable} of {self.models} models because they had become stable, "
            f"in {late} at the latest epoch, before that."
        )


def read_pruning(run: RunFolder, names: Iterable[ModelName]) -> PruningMeans | None:
    """Facts about those of some models that were pruned; None if none was.

    Raises:
        ValueError: a record is damaged.
    """
    records = [record for name in names if (record := read_record(run, name, FULL))]
    return average_pruning([record for record in records if "kept" in record])


def leave_out_pruning(run: RunFolder, names: Iterable[ModelName]) -> list[str]:
    """Sentence on models whose record of pruning is gone, if there are any."""
    lost = [str(name) for name in names if not run.record(name, FULL).exists()]
    if not lost:
        return []
    return [
        f"How {', '.join(lost)} was pruned is not reported: {FULL}.json is gone from its folder. "
        "Restore it from a copy; attacks do without it."
    ]


def read_widths(
    run: RunFolder, names: Sequence[ModelName]
) -> Float[Tensor, "models groups"] | None:
    """How many channels of each group these models kept; None if none was cut.

    A model that was not cut, such as one that diverged before, has 0 of each: no audit uses it.
    """
    files = (run.weights(name, FULL) for name in names)
    kept = [load_kept(file) if file.exists() else {} for file in files]
    groups = next((list(own) for own in kept if own), None)
    if groups is None:
        return None
    return torch.tensor([[len(own.get(group, ())) for group in groups] for own in kept]).float()


def average_pruning(records: Sequence[Mapping[str, Any]]) -> PruningMeans | None:
    """Average the records of models of one fleet; None without records."""
    if not records:
        return None
    one = records[0]

    def means(key: str) -> list[float]:
        return [fmean(values) for values in zip(*(record[key] for record in records), strict=True)]

    widths = []
    for layer, (dense, _) in one["widths"].items():
        pruned = [record["widths"][layer][1] for record in records]
        widths.append(LayerWidth(layer, dense, min(pruned), fmean(pruned), max(pruned)))
    return PruningMeans(
        method=one["method"],
        remove=one["remove"],
        models=len(records),
        first=one["first"],
        cut_after=[record["cut_after"] for record in records],
        stable=None if one["stable"] is None else sum(record["stable"] for record in records),
        stability=[record["stability"] for record in records],
        macs=means("macs"),
        parameters=means("parameters"),
        accuracy=means("accuracy"),
        widths=widths,
    )
