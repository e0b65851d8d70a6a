"""What an attacker sees of every variant of a model, recorded once after its training."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from datamodules.images import Batch, ImageDataModule
from lightning_modules.run_folder import save_whole


class SignalsLike(Protocol):
    """A named tuple of tensors that end in `examples`."""

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
        logits = torch.stack([_logits(network, data.pool_batches(query)) for query in self.queries])
        record = self.measure(logits, data.pool.labels.cpu())._asdict()
        test_logits = _logits(network, data.test_batches())
        record["test_correct"] = self.measure(test_logits, data.test.labels.cpu()).correct
        return record


@torch.inference_mode()
def _logits(network: nn.Module, batches: Iterable[Batch]) -> Float[Tensor, "examples classes"]:
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(batch.images.to(device)).cpu() for batch in batches])


def load_signals(paths: Sequence[Path], key: str) -> Tensor:
    """Stack one signal of several models, along a first axis `models`.

    Raises:
        ValueError: a file is damaged.
    """
    return torch.stack([_read(path, key) for path in paths])


def _read(path: Path, key: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole signals file ({error}). Delete it and run train.py again."
        ) from error
    return tensor
