"""What an attacker sees of every variant of a model, recorded once after its training."""

import copy
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from datamodules.images import Batch, ImageDataModule
from lightning_modules.whole import save_whole


@runtime_checkable
class SignalsLike(Protocol):
    """A named tuple of tensors that end in `examples`."""

    @property
    def phi(self) -> Tensor: ...
    @property
    def hinge(self) -> Tensor: ...
    @property
    def correct(self) -> Tensor: ...
    def _asdict(self) -> dict[str, Tensor]: ...


Measure = Callable[[Tensor, Tensor], SignalsLike]
ReadWeights = Callable[[Path], dict[str, Tensor]]
Record = dict[str, Tensor]


def sortable(variant: str) -> str:
    """A variant's name as W&B sorts and filters by it: letters, digits and underscores.

    Source: https://docs.wandb.ai/support/models/articles/why-cant-i-sort-or-filter-metrics-with-c
    """
    return re.sub(r"\W", "_", variant)


def accuracy_key(variant: str) -> str:
    """The name under which a variant's test accuracy is logged, of a model or mean over targets."""
    return f"test_accuracy/{sortable(variant)}"


class RecordSignals(Callback):
    """Write `signals/<variant>.safetensors` for every variant of a model, after a fit.

    The weights are read back from their file, so what is audited is what would be deployed, in
    float32 on purpose: what `quantization/export.py` deploys computes in float32 too. One process
    does it, over the whole pool in order: a distributed sampler would repeat examples. There is
    one pass, in which each batch goes through the networks of all variants that lack their file.

    Args:
        folder: the model's folder, with a weights file for each variant.
        variants: `full` and the names of the quantized variants.
        queries: the views of an example that the attacker asks for, the same for every model
            unless they are random ones.
        measure: logits and labels in, signals out; each example by itself.
        read: a weights file in, a full state dict out.
    """

    def __init__(
        self,
        folder: Path,
        variants: Sequence[str],
        queries: Sequence[str],
        measure: Measure,
        read: ReadWeights,
    ) -> None:
        self.folder, self.variants, self.queries = folder, variants, queries
        self.measure, self.read = measure, read

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        paths = {name: self.folder / "signals" / f"{name}.safetensors" for name in self.variants}
        missing = {name: path for name, path in paths.items() if not path.exists()}
        if not missing:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        # By now Lightning has moved the module back to the CPU.
        trained, device = pl_module.get_submodule("network"), trainer.strategy.root_device
        networks = [self._load(trained, variant).to(device) for variant in missing]
        records = self._record(networks, data)
        for (variant, path), record in zip(missing.items(), records, strict=True):
            save_whole(path, record)
            accuracy = record["test_correct"].double().mean().item()
            for logger in trainer.loggers:
                logger.log_metrics({accuracy_key(variant): accuracy})

    def _load(self, trained: nn.Module, variant: str) -> nn.Module:
        network = copy.deepcopy(trained).float().eval()
        network.load_state_dict(self.read(self.folder / f"{variant}.safetensors"))
        return network

    def _record(self, networks: Sequence[nn.Module], data: ImageDataModule) -> Iterator[Record]:
        asked = len(self.queries)
        # accuracy is that of images as they are, which the attacker need not ask for
        views = [*self.queries, *({"identity"} - set(self.queries))]
        pool = self._see(networks, data.pool_batches, self.queries)
        test = self._see(networks, data.test_batches, views)  # that no model trained on
        for record, others in zip(pool, test, strict=True):
            yield record | {
                "population": others["phi"][:asked],
                "population_hinge": others["hinge"][:asked],
                "test_correct": others["correct"][views.index("identity")],
            }

    def _see(
        self,
        networks: Sequence[nn.Module],
        batches: Callable[[str], Iterable[Batch]],
        queries: Sequence[str],
    ) -> list[Record]:
        """Signals `[queries, examples]` of each network."""
        rows = [self._see_view(networks, batches(query)) for query in queries]
        return [_join(torch.stack, row) for row in zip(*rows, strict=True)]

    @torch.inference_mode()
    def _see_view(self, networks: Sequence[nn.Module], batches: Iterable[Batch]) -> list[Record]:
        """Signals `[examples]` of each network; its logits live for a batch."""
        parts = [
            [self.measure(network(images).cpu(), labels.cpu())._asdict() for network in networks]
            for images, labels, _ in batches
        ]
        return [_join(torch.cat, part) for part in zip(*parts, strict=True)]


def _join(how: Callable[[list[Tensor]], Tensor], records: Sequence[Record]) -> Record:
    return {key: how([record[key] for record in records]) for key in records[0]}


class SavedSignal:
    """One signal of several models, left in their files.

    Like a tensor `[models, queries, examples]` of which a slice of examples is read at a time:
    `some[[0, 2]]` are two of the models, still on disk, and `some[..., 0:9]` is a tensor.

    Args:
        paths: a file a model.
        key: of the signal.

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
        some = range(examples)[index[-1]]
        starts, dtype = self._places
        read = torch.empty(*others, len(some), dtype=dtype)
        if not read.numel():
            return read
        first, step = some.start * dtype.itemsize, examples * dtype.itemsize
        for path, start, signal in zip(self.paths, starts, read.numpy(), strict=True):
            # not mapped: that took three times as long, and 0.3 GB for 256 files
            with path.open("rb", buffering=0) as file:
                number = file.fileno()
                for row, at in zip(signal.reshape(-1, len(some)), count(start + first, step)):
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

    def exists(self) -> bool:
        """Whether the files have it: those of older versions have no population."""
        with _opened(self.paths[0]) as file:
            return self.key in file.keys()  # noqa: SIM118


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
