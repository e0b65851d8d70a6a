"""What an attacker sees of every variant of a model, recorded once after its training."""

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from datamodules.images import Batch, ImageDataModule
from lightning_modules.run_folder import save_whole


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


class RecordSignals(Callback):
    """Write `signals/<variant>.safetensors` for every variant of a model, after a fit.

    The weights are read back from their file, so what is audited is what would be deployed. One
    process does it, over the whole pool in order: a distributed sampler would repeat examples.

    Args:
        folder: the model's folder, with a weights file for each variant.
        variants: `full` and the names of the quantized variants.
        queries: the views of an example that the attacker asks for, the same for every model.
        measure: logits and labels in, signals out.
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
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        # By now Lightning has moved the module back to the CPU.
        network = copy.deepcopy(pl_module.get_submodule("network")).float()
        network = network.to(trainer.strategy.root_device)
        for variant in self.variants:
            path = self.folder / "signals" / f"{variant}.safetensors"
            if path.exists():
                continue
            network.load_state_dict(self.read(self.folder / f"{variant}.safetensors"))
            record = self._record(network, data)
            save_whole(path, record)
            accuracy = record["test_correct"].double().mean().item()
            for logger in trainer.loggers:
                logger.log_metrics({f"final/{variant}/test_accuracy": accuracy})

    def _record(self, network: nn.Module, data: ImageDataModule) -> dict[str, Tensor]:
        def logits(batches: Callable[[str], Iterable[Batch]], asked: Iterable[str]) -> list[Tensor]:
            return [_logits(network, batches(query)) for query in asked]

        labels, test_labels = data.pool.labels.cpu(), data.test.labels.cpu()
        pool = torch.stack(logits(data.pool_batches, self.queries))
        record = self.measure(pool, labels)._asdict()
        # of images that no model trained on; accuracy is on them as they are
        asked = dict.fromkeys([*self.queries, "identity"])
        test = dict(zip(asked, logits(data.test_batches, asked), strict=True))
        others = self.measure(torch.stack([test[query] for query in self.queries]), test_labels)
        record |= {"population": others.phi, "population_hinge": others.hinge}
        record["test_correct"] = self.measure(test["identity"], test_labels).correct
        return record


@torch.inference_mode()
def _logits(network: nn.Module, batches: Iterable[Batch]) -> Float[Tensor, "examples classes"]:
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(batch.images.to(device)).cpu() for batch in batches])


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
        for path, start, signal in zip(self.paths, starts, read, strict=True):
            # not mapped: that took three times as long, and 0.3 GB for 256 files
            with path.open("rb", buffering=0) as file:
                for number, row in enumerate(signal.view(-1, len(some))):
                    at = start + (number * examples + some.start) * dtype.itemsize
                    if os.preadv(file.fileno(), [row.numpy()], at) != row.nbytes:
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
            f"{path} is not a whole signals file ({error}). Delete it and run train.py again."
        ) from error
